"""Score tables of a report: this evaluation alone, and compared with printed scores."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from hearbench import paper_tables
from hearbench.results import PAPER, SCALES, THESE, Results
from hearbench.run.plan import EvaluatedSystem, Plan
from hearbench.stats import FEW_SEEDS, LOWER_IS_BETTER, NO_FRACTION, Estimate
from hearbench.tasks.folders import Task
from hearbench.tasks.official import OFFICIAL

METRICS = {
    "top1_acc": "accuracy",
    "pitch_acc": "pitch accuracy",
    "chroma_acc": "chroma accuracy",
    "mAP": "mean average precision",
    "d_prime": "d prime",
    "aucroc": "area under the ROC curve",
    "event_onset_200ms_fms": "onset F-measure",
    "segment_1s_er": "segment error rate",
}
"""heareval's metrics in words."""


@dataclass(frozen=True)
class Head:
    """Header of a column of scores."""

    text: str
    area: str
    """Group in Table 2 for the official tasks, else the kind of task."""
    detail: str
    lower_is_better: bool = False


@dataclass(frozen=True)
class Row:
    """One system's scores, in the order of the heads; None where a score is missing."""

    name: str
    group: str
    measured: bool
    """Whether this evaluation measured them; else the paper printed them."""
    parameters: float | None
    """Parameters in millions; None if there are none or they are not known."""
    with_decoder: bool
    cells: tuple[Estimate | None, ...]

    @property
    def title(self) -> str:
        """The name; a measured system may have that of a printed row."""
        return self.name if self.measured else f"{self.name} (printed)"


@dataclass(frozen=True)
class ScoreTable:
    """Scores of systems on tasks."""

    name: str
    title: str
    heads: tuple[Head, ...]
    rows: tuple[Row, ...]
    caption: str

    @property
    def scores(self) -> list[Estimate | None]:
        """All scores of the table."""
        return [cell for row in self.rows for cell in row.cells]

    def best(self, column: int) -> float | None:
        """The best mean of a column, as printed."""
        means = [round(e.mean, 1) for row in self.rows if (e := row.cells[column])]
        pick = min if self.heads[column].lower_is_better else max
        return pick(means, default=None)

    def is_best(self, row: Row, column: int) -> bool:
        """Whether the row has the column's best mean; a table of one row has none."""
        cell = row.cells[column]
        return cell is not None and len(self.rows) > 1 and round(cell.mean, 1) == self.best(column)


def kind(task: Task) -> str:
    """The kind of a task by its folder; only the official folders count as official tasks."""
    if column := paper_tables.column(task):
        return column.area
    if any(column.folder.startswith(f"{task.name}-") for column in OFFICIAL.values()):
        return "Official task in part"
    if task.path.name.endswith("-mini"):
        return "Generated"
    return "Other tasks"


def measured(results: Results, scales: Sequence[str] = (THESE,)) -> ScoreTable:
    """All systems of the evaluation on all of its tasks, and their s(m) in these scales."""
    plan = results.plan
    heads = [_head(task) for task in plan.tasks]
    heads += [Head(SCALES[scale], "All tasks", f"relative to {scale}") for scale in scales]
    rows = []
    for system in plan.systems:
        label = system.label
        cells = [results.cells.get((label, task.path.name)) for task in plan.tasks]
        rows.append(_row(system, cells + [results.aggregates[f].get(label) for f in scales]))
    scores = [cell for row in rows for cell in row.cells]
    caption = (
        f"Test scores by {probes(plan, plan.tasks)}: {_metrics(plan)}. {spread(scores)} "
        "Best in bold. s(m) is relative to the worst and best single runs of the systems in this "
        f"table, over {plural(len(plan.tasks), 'task')}: it can't be compared with other tables. "
        "Parameters are those of the module as loaded."
    )
    if PAPER in scales:
        caption += f" {SCALES[PAPER]} is on the scale of the paper's Table 2."
    return ScoreTable("measured", "Scores", tuple(heads), tuple(rows), caption)


def compared_with_printed(results: Results) -> ScoreTable | None:
    """Our scores and the paper's Table 2, for its tasks that were evaluated in full, if any."""
    by_column = {
        column.short: task for task in results.plan.tasks if (column := paper_tables.column(task))
    }
    columns = [column for column in OFFICIAL.values() if column.short in by_column]
    if not columns:
        return None
    placed = results.aggregates[PAPER]
    heads = [_head(by_column[column.short]) for column in columns]
    heads += [Head("s(m)", "Ten tasks", "on the scale of the paper's Table 2")] if placed else []
    rows = []
    for row in paper_tables.rows("table2"):
        cells = [row.scores[column.short] for column in columns] + [row.aggregate] * bool(placed)
        group = f"Printed: {row.group}"
        rows.append(Row(row.model, group, False, row.parameters, row.with_decoder, tuple(cells)))
    for system in results.plan.systems:
        label = system.label
        tasks = [by_column[column.short].path.name for column in columns]
        cells_ = [results.cells.get((label, task)) for task in tasks]
        rows.append(_row(system, cells_ + [placed.get(label)] * bool(placed)))
    ours = [cell for row in rows if row.measured for cell in row.cells]
    return ScoreTable("printed", "Compared with printed scores", tuple(heads), tuple(rows), (
        "Printed: Table 2 of the paper, ten seeds. Measured: this evaluation, by "
        f"{probes(results.plan, by_column.values())}; {seeds(ours)}. Only complete official "
        "tasks, by name and version, are listed. Best in bold; * includes the decoder. "
        + (
            "s(m) is on the scale of the paper's Table 2 for all rows."
            if placed
            else f"No s(m) here: {next(iter(results.refused[PAPER].values()), 'no runs')}."
        )
    ))  # fmt: skip


def probes(plan: Plan, tasks: Collection[Task]) -> str:
    """Name what trained the probes of these tasks, and in which search space."""
    official = [task.path.name for task in tasks if plan.engine_of(task) == "heareval"]
    if len(official) == len(tasks):
        return f"the official heareval (grid {plan.grid})"
    also = f", on {', '.join(official)} by the official heareval" if official else ""
    return f"hearbench's training of heareval's probes (engine fast, grid {plan.grid}){also}"


def seeds(scores: Iterable[Estimate | None]) -> str:
    """The number of seeds that these scores are means of: those that are finished."""
    counts = {score.seeds for score in scores if score} or {0}
    low, high = min(counts), max(counts)
    return plural(high, "seed") if low == high else f"{low} to {high} seeds"


def spread(scores: Sequence[Estimate | None]) -> str:
    """Describe the means and their intervals or ranges."""
    ranges, intervals = _spreads(scores)
    if not ranges and not intervals:
        return f"{seeds(scores)} of the probe."
    interval = " ± half of the 95 % interval (Student t)" if intervals else ""
    few = f"; in brackets, the range where fewer than {FEW_SEEDS} are finished" if ranges else ""
    return f"Mean over {seeds(scores)} of the probe{interval}{few}."


def whiskers(scores: Sequence[Estimate | None]) -> str:
    """Describe the whiskers in pictures; empty if there are none."""
    ranges, intervals = _spreads(scores)
    if not intervals:
        return "range of the seeds" if ranges else ""
    few = f", or their range where fewer than {FEW_SEEDS} are finished" if ranges else ""
    return f"95 % interval over the seeds{few}"


def _spreads(scores: Iterable[Estimate | None]) -> tuple[bool, bool]:
    """Whether scores are shown with a range, and whether some are with an interval."""
    found = [score for score in scores if score is not None and score.half_width is not None]
    ranges = [score.range is not None for score in found]
    return any(ranges), not all(ranges)


def _metrics(plan: Plan) -> str:
    """Describe the metrics of the tasks and their units."""
    tasks: dict[str, list[str]] = {}
    for task in plan.tasks:
        name = METRICS.get(task.metric, task.metric)
        tasks.setdefault(name, []).append(_head(task).text)
    where = "; ".join(f"{metric} on {', '.join(names)}" for metric, names in tasks.items())
    plain = [metric for metric in NO_FRACTION if metric in {task.metric for task in plan.tasks}]
    unit = f"in percent except for {plain[0]}" if plain else "in percent"
    return f"{where if len(tasks) > 1 else next(iter(tasks))}, {unit}"


def _head(task: Task) -> Head:
    column = paper_tables.column(task)
    metric = METRICS.get(task.metric, task.metric)
    detail = f"{task.path.name}: {metric}, {task.classes} classes, {task.clips:,} clips"
    name = column.short if column else task.path.name
    return Head(name, kind(task), detail, task.metric in LOWER_IS_BETTER)


def _row(system: EvaluatedSystem, cells: Sequence[Estimate | None]) -> Row:
    count = system.fingerprint.parameters
    parameters = count / 1e6 if count else None
    return Row(system.label, "Measured", True, parameters, False, tuple(cells))


def plural(count: int, noun: str) -> str:
    """`count` and the noun."""
    return f"{count} {noun}" + ("" if count == 1 else "s")
