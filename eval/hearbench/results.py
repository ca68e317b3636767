"""The results of a plan: means, intervals and s(m), and the files results.csv and results.json."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from hearbench import paper_tables
from hearbench.files import write_text
from hearbench.machine import hardware, versions
from hearbench.run.plan import Plan, system_record, task_record
from hearbench.stats import (
    AggregateError,
    Estimate,
    Run,
    aggregate,
    aggregate_paper,
    by_seed,
    summarize,
)

THESE, PAPER = "these systems", "the paper's Table 2"
SCALES = {THESE: "s(m)", PAPER: "s(m), paper"}


@dataclass(frozen=True)
class Results:
    """Everything that tables show, computed from the finished runs of a plan."""

    plan: Plan
    runs: tuple[Run, ...]
    """A system and task with an infinite or NaN score are left out."""
    cells: dict[tuple[str, str], Estimate]
    """(system, task) -> mean and interval in percent; absent without a finished run."""
    aggregates: dict[str, dict[str, Estimate]]
    """Scale -> system -> s(m)."""
    refused: dict[str, dict[str, str]]
    """Scale -> system -> why it has no s(m)."""
    notes: tuple[str, ...]
    """What is missing, and why."""


def collect(plan: Plan) -> Results:
    """Compute means, intervals and s(m) from the finished runs of `plan`."""
    finished = tuple(plan.runs())
    broken = {(r.system, r.task): r for r in finished if not math.isfinite(r.score)}
    runs = tuple(run for run in finished if (run.system, run.task) not in broken)
    systems = [system.label for system in plan.systems]
    tasks = [task.path.name for task in plan.tasks]
    columns = {task.path.name: paper_tables.column(task) for task in plan.tasks}
    official = {task: column.short for task, column in columns.items() if column}
    cells: dict[tuple[str, str], Estimate] = {}
    aggregates: dict[str, dict[str, Estimate]] = {scale: {} for scale in SCALES}
    refused: dict[str, dict[str, str]] = {scale: {} for scale in SCALES}
    notes = [
        f"{run.system} on {run.task} has no mean: seed {run.seed} scored {run.score}."
        for run in broken.values()
    ]
    for system in systems:
        seeds = by_seed(runs, system)
        for task in tasks:
            if (system, task) in broken:
                continue
            values = [scores[task] for _, scores in sorted(seeds.items()) if task in scores]
            if values:
                cells[system, task] = summarize(values)
            if len(values) < plan.seeds:
                notes.append(
                    f"{system} on {task}: {len(values)} of {plan.seeds} seeds are finished."
                )
        for scale in SCALES:
            try:
                aggregates[scale][system] = (
                    aggregate(runs, system, tasks)
                    if scale == THESE
                    else aggregate_paper(runs, system, official)
                )
            except AggregateError as error:
                refused[scale][system] = str(error)
    notes += [f"No s(m) for {system}: {why}." for system, why in refused[THESE].items()]
    if official:
        reasons = dict.fromkeys(refused[PAPER].values())
        notes += [f"No s(m) on the scale of the paper's Table 2: {why}." for why in reasons]
    return Results(plan, runs, cells, aggregates, refused, tuple(notes))


def write(results: Results) -> None:
    """Write results.csv and results.json into the plan's folder."""
    out = results.plan.out
    with (out / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["system", "task", "seed", "metric", "percent", "seconds", "engine"])
        for run in results.runs:
            row = [run.system, run.task, run.seed, run.metric]
            writer.writerow([*row, f"{run.percent:.6f}", f"{run.seconds:.1f}", run.engine])
    write_text(out / "results.json", json.dumps(_record(results), indent=2) + "\n")


def _record(results: Results) -> dict[str, Any]:
    plan = results.plan
    return {
        "systems": [system_record(system) for system in plan.systems],
        "tasks": [task_record(task) for task in plan.tasks],
        "seeds": plan.seeds,
        "grid": plan.grid,
        "engine": plan.engine,
        "runs": [{**asdict(run), "percent": run.percent} for run in results.runs],
        "means": [
            {"system": system, "task": task, **asdict(cell)}
            for (system, task), cell in results.cells.items()
        ],
        "s(m)": {
            scale: {system: asdict(value) for system, value in column.items()}
            for scale, column in results.aggregates.items()
        },
        "notes": list(results.notes),
        "versions": versions(),
        "hardware": hardware(),
    }
