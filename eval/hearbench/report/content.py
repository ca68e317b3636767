"""Content of a report, gathered once for all formats."""

from __future__ import annotations

from dataclasses import dataclass

from hearbench.progress import Progress
from hearbench.report.confusion import Mistakes, mistakes
from hearbench.report.paired_differences import Comparison, comparisons
from hearbench.report.provenance import Provenance, provenance
from hearbench.report.score_tables import (
    ScoreTable,
    compared_with_printed,
    measured,
    plural,
    seeds,
)
from hearbench.results import THESE, Results
from hearbench.stats import Estimate


@dataclass(frozen=True)
class Content:
    """The content of a report, independent of its format."""

    results: Results
    title: str
    lead: str
    measured: ScoreTable
    printed: ScoreTable | None
    """Comparison with the paper's Table 2; None if no task is one of its tasks."""
    comparisons: tuple[Comparison, ...]
    mistakes: tuple[Mistakes, ...]
    """Mistakes, ordered by task, then system."""
    provenance: Provenance

    @property
    def differences(self) -> list[Estimate | None]:
        """All differences of the comparisons."""
        return [value for pair in self.comparisons for value in pair.differences]


def gather(results: Results) -> Content:
    """Compute the content of a report; shows progress, since there may be many predictions."""
    plan = results.plan
    pairs = [(system, task) for task in plan.tasks for system in plan.systems]
    bar = Progress(pairs, desc="report", unit="table", leave=False)
    found = [mistakes(plan, system, task) for system, task in bar]
    return Content(
        results,
        f"{plural(len(plan.systems), 'system')} on {plural(len(plan.tasks), 'task')}",
        _lead(results),
        measured(results),
        compared_with_printed(results),
        tuple(comparisons(results)),
        tuple(entry for entry in found if entry is not None),
        provenance(results),
    )


def _lead(results: Results) -> str:
    text = f"Audio embeddings evaluated by probes, {seeds(results.cells.values())} each."
    ranked = sorted(results.aggregates[THESE].items(), key=lambda item: -item[1].mean)
    if len(ranked) > 1:
        (first, best), (second, next_best) = ranked[:2]
        text += f" Highest s(m) of these systems: {first}, {best}; next {second}, {next_best}."
    return text
