"""Differences between systems, seed by seed."""

from __future__ import annotations

from dataclasses import dataclass

from hearbench.results import Results
from hearbench.stats import AggregateError, Estimate, aggregate_by_seed, by_seed, summarize


@dataclass(frozen=True)
class Comparison:
    """Two systems, seed by seed: `system` minus `reference`."""

    system: str
    reference: str
    differences: tuple[Estimate | None, ...]
    """For each task, then s(m); None without a common seed."""


def comparisons(results: Results) -> list[Comparison]:
    """Compare every system with every other."""
    labels = [system.label for system in results.plan.systems]
    scores = {label: _per_seed(results, label) for label in labels}
    return [
        Comparison(
            system,
            reference,
            tuple(_paired(*pair) for pair in zip(scores[system], scores[reference], strict=True)),
        )
        for reference in labels
        for system in labels
        if system != reference
    ]


def certain(difference: Estimate | None) -> bool:
    """Whether the 95 % interval of a difference excludes zero."""
    if difference is None or difference.half_width is None:
        return False
    return abs(difference.mean) > difference.half_width


def _per_seed(results: Results, label: str) -> list[dict[int, float]]:
    """Seed -> score, for each task, then s(m)."""
    tasks = [task.path.name for task in results.plan.tasks]
    seeds = by_seed(results.runs, label)
    columns = [{s: scores[task] for s, scores in seeds.items() if task in scores} for task in tasks]
    try:
        return [*columns, aggregate_by_seed(results.runs, label, tasks)]
    except AggregateError:
        return [*columns, {}]


def _paired(system: dict[int, float], reference: dict[int, float]) -> Estimate | None:
    common = sorted(system.keys() & reference.keys())
    return summarize([system[seed] - reference[seed] for seed in common]) if common else None
