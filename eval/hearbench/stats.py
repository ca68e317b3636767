"""Means, confidence intervals and the aggregated score s(m) from the scores of single runs.

The paper's s(m) = 100 / |T| * sum_t (x_t(m) - min_t) / (max_t - min_t). As in the paper's tables,
min_t and max_t are taken over the single runs (every system with every seed), not over the systems'
means, and the "+-" is the interval over the seeds' own s.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t as student_t

from hearbench.errors import HearbenchError

LOWER_IS_BETTER = ("segment_1s_er",)
NO_FRACTION = ("d_prime",)  # all other metrics are printed in percent

# Least squares over the 20 rows of the paper's Table 2 (residuals below 0.05), since the paper does
# not print them: column of Table 2 -> range of the single runs in percent.
PAPER_RANGES = {
    "BO": 51.38,
    "Mri-S": 59.46,
    "Mri-T": 66.06,
    "NS-5h": 68.12,
    "CD": 45.41,
    "LC": 38.27,
    "SC-5h": 85.49,
    "VL": 57.80,
    "E50": 89.98,
    "F50K": 56.83,
}
PAPER_CONSTANT = -40.154
FEW_SEEDS = 5  # fewer are shown with their range instead of an interval


class AggregateError(HearbenchError, ValueError):
    """Raised if s(m) can't be computed from these scores; the message says why."""


@dataclass(frozen=True)
class Run:
    """The outcome of one system on one task with one seed."""

    system: str
    task: str
    seed: int
    metric: str
    score: float
    """heareval's score: the mean over folds, a fraction for most metrics."""
    seconds: float
    """The time of training and testing."""
    engine: str = "heareval"
    """The engine that trained the probe: `heareval` or `fast` (hearbench.probes.fast)."""

    @property
    def percent(self) -> float:
        """The printed score, x_t."""
        return self.score if self.metric in NO_FRACTION else 100.0 * self.score


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and the spread of the seeds."""

    mean: float
    half_width: float | None
    """Half of the two-sided 95 % interval (Student t); None for a single seed."""
    seeds: int
    lowest: float | None = None
    """The lowest score of a seed; None where only the mean is known (printed scores)."""
    highest: float | None = None
    """The highest score of a seed."""

    @property
    def range(self) -> tuple[float, float] | None:
        """Lowest and highest score, if there are too few seeds for a useful interval.

        With two seeds Student's t multiplies their standard deviation by 9: such an interval
        reflects the number of seeds more than the scores.
        """
        if self.half_width is None or self.lowest is None or self.highest is None:
            return None
        return (self.lowest, self.highest) if self.seeds < FEW_SEEDS else None

    @property
    def bounds(self) -> tuple[float, float]:
        """Ends of the range or else of the interval; the mean itself for a single seed."""
        half_width = self.half_width or 0.0
        return self.range or (self.mean - half_width, self.mean + half_width)

    @property
    def spread(self) -> str:
        """The range or else the interval in text; empty for a single seed."""
        if self.half_width is None:
            return ""
        if self.range is not None:
            return "({:.1f} to {:.1f})".format(*self.range)
        return f"± {self.half_width:.1f}"

    def __str__(self) -> str:
        return f"{self.mean:.1f} {self.spread}".rstrip()


def summarize(values: Sequence[float]) -> Estimate:
    """Mean, two-sided 95 % Student t interval and range of one value per seed."""
    n = len(values)
    half_width = None
    if n > 1:
        half_width = float(student_t.ppf(0.975, n - 1)) * stdev(values) / math.sqrt(n)
    return Estimate(fmean(values), half_width, n, min(values), max(values))


def by_seed(runs: Iterable[Run], system: str) -> dict[int, dict[str, float]]:
    """The scores x_t of one system in percent: seed -> task -> x_t."""
    table: dict[int, dict[str, float]] = {}
    for run in runs:
        if run.system == system:
            table.setdefault(run.seed, {})[run.task] = run.percent
    return table


def score_ranges(runs: Sequence[Run]) -> dict[str, tuple[float, float]]:
    """Task -> (worst, best) x_t over all runs of all systems."""
    values: dict[str, list[float]] = {}
    for run in runs:
        values.setdefault(run.task, []).append(run.percent)
    lower = {run.task for run in runs if run.metric in LOWER_IS_BETTER}
    extremes = {task: (min(x), max(x)) for task, x in values.items()}
    return {task: (e[1], e[0]) if task in lower else e for task, e in extremes.items()}


def aggregate(runs: Sequence[Run], system: str, tasks: Sequence[str]) -> Estimate:
    """s(m) of `system` over `tasks` relative to `runs`, see `aggregate_by_seed`."""
    return summarize(list(aggregate_by_seed(runs, system, tasks).values()))


def aggregate_by_seed(runs: Sequence[Run], system: str, tasks: Sequence[str]) -> dict[int, float]:
    """Seed -> s of `system` relative to `runs`, for the seeds that have every task.

    Raises:
        AggregateError: if the system lacks a task, or all runs of a task have the same score.
    """
    if not runs:
        raise AggregateError("no run is finished")
    if len({run.system for run in runs}) < 2:
        raise AggregateError("s(m) compares systems, and there is only one")
    ranges = score_ranges(runs)
    complete = _complete_seeds(runs, system, tasks)
    if flat := [task for task in tasks if ranges[task][0] == ranges[task][1]]:
        raise AggregateError(f"all runs score the same on {flat[0]}")
    return {seed: _place(scores, ranges, tasks) for seed, scores in complete.items()}


def _complete_seeds(
    runs: Sequence[Run], system: str, tasks: Sequence[str]
) -> dict[int, dict[str, float]]:
    seeds = by_seed(runs, system)
    done = {task for scores in seeds.values() for task in scores}
    if missing := [task for task in tasks if task not in done]:
        raise AggregateError(f"no score on {', '.join(missing)}")
    complete = {seed: seeds[seed] for seed in sorted(seeds) if seeds[seed].keys() >= set(tasks)}
    if not complete:
        raise AggregateError("no seed has finished every task")
    return complete


def _place(
    scores: Mapping[str, float], ranges: Mapping[str, tuple[float, float]], tasks: Sequence[str]
) -> float:
    """One seed's s: 100 is best on every task, 0 is worst on every task."""
    parts = [(scores[t] - ranges[t][0]) / (ranges[t][1] - ranges[t][0]) for t in tasks]
    return 100.0 * fmean(parts)


def aggregate_paper(runs: Sequence[Run], system: str, columns: Mapping[str, str]) -> Estimate:
    """s(m) of `system` on the scale of the paper's Table 2.

    Args:
        runs: scores of the ten official tasks.
        system: label of the system.
        columns: the tasks' folders -> the column of Table 2 that each is.

    Raises:
        AggregateError: if these are not exactly the paper's ten tasks, or one has no score.
    """
    if lacking := [column for column in PAPER_RANGES if column not in columns.values()]:
        raise AggregateError(
            f"the paper's scale needs its ten official tasks in full; missing: {', '.join(lacking)}"
        )
    seeds = _complete_seeds(runs, system, list(columns)).values()
    return summarize([paper_score({columns[t]: seed[t] for t in columns}) for seed in seeds])


def paper_score(scores: Mapping[str, float]) -> float:
    """One model's s from its ten x_t in percent, on the scale of the paper's Table 2.

    Raises:
        AggregateError: if a column of Table 2 is missing.
    """
    if lacking := [column for column in PAPER_RANGES if column not in scores]:
        raise AggregateError(f"no score on {', '.join(lacking)}")
    parts = [10.0 * scores[column] / PAPER_RANGES[column] for column in PAPER_RANGES]
    return PAPER_CONSTANT + sum(parts)
