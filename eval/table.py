"""The results of a plan: results.csv and results.json, and table.md in the paper's layout."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from eval import published
from eval.plan import Plan
from eval.scores import (
    LOWER_IS_BETTER,
    Estimate,
    FrameError,
    Run,
    aggregate,
    aggregate_paper,
    by_seed,
    estimate,
)
from eval.tasks import Task

PACKAGES = ("hear_axlstm", "heareval", "pytorch-lightning", "torch", "numpy", "scikit-learn")
THESE, PAPER = "these systems", "the paper's Table 2"
FRAMES = {THESE: "s(m)", PAPER: "s(m), paper"}


@dataclass(frozen=True)
class Results:
    """Everything that a table shows, computed from the finished runs of a plan."""

    plan: Plan
    runs: tuple[Run, ...]
    """Those of a system and task of which a score is infinite or NaN are left out."""
    cells: dict[tuple[str, str], Estimate]
    """(system, task) -> mean and interval in percent; absent without a finished run."""
    aggregates: dict[str, dict[str, Estimate]]
    """Frame -> system -> s(m)."""
    refused: dict[str, dict[str, str]]
    """Frame -> system -> why it has no s(m)."""
    notes: tuple[str, ...]
    """What is missing, and why."""


def collect(plan: Plan) -> Results:
    """Compute means, intervals and s(m) from the finished runs of `plan`."""
    finished = tuple(plan.runs())
    broken = {(r.system, r.task): r for r in finished if not math.isfinite(r.score)}
    runs = tuple(run for run in finished if (run.system, run.task) not in broken)
    systems = [entrant.system.label for entrant in plan.entrants]
    tasks = [task.path.name for task in plan.tasks]
    columns = {task.path.name: published.column(task) for task in plan.tasks}
    official = {task: column.short for task, column in columns.items() if column}
    cells: dict[tuple[str, str], Estimate] = {}
    aggregates: dict[str, dict[str, Estimate]] = {frame: {} for frame in FRAMES}
    refused: dict[str, dict[str, str]] = {frame: {} for frame in FRAMES}
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
                cells[system, task] = estimate(values)
            if len(values) < plan.seeds:
                notes.append(
                    f"{system} on {task}: {len(values)} of {plan.seeds} seeds are finished."
                )
        for frame in FRAMES:
            try:
                aggregates[frame][system] = (
                    aggregate(runs, system, tasks)
                    if frame == THESE
                    else aggregate_paper(runs, system, official)
                )
            except FrameError as error:
                refused[frame][system] = str(error)
    notes += [f"No s(m) for {system}: {why}." for system, why in refused[THESE].items()]
    if official:
        reasons = dict.fromkeys(refused[PAPER].values())
        notes += [f"No s(m) on the scale of the paper's Table 2: {why}." for why in reasons]
    return Results(plan, runs, cells, aggregates, refused, tuple(notes))


def write(results: Results) -> str:
    """Write results.csv, results.json and table.md into the plan's folder; gives the table."""
    out = results.plan.out
    with (out / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["system", "task", "seed", "metric", "score", "seconds", "engine"])
        for run in results.runs:
            row = [run.system, run.task, run.seed, run.metric]
            writer.writerow([*row, f"{run.percent:.6f}", f"{run.seconds:.1f}", run.engine])
    (out / "results.json").write_text(json.dumps(_record(results), indent=2) + "\n")
    table = markdown(results)
    (out / "table.md").write_text(table)
    return table


def markdown(results: Results) -> str:
    """The table in the layout of the paper's Table 2, the best of each column in bold."""
    plan = results.plan
    frames = [frame for frame in FRAMES if results.aggregates[frame] or frame == THESE]
    heads = ["Model", "#M Params", *(_head(task) for task in plan.tasks)]
    heads += [FRAMES[frame] for frame in frames]
    systems = [entrant.system.label for entrant in plan.entrants]
    columns = [systems, [_millions(e.fingerprint.parameters) for e in plan.entrants]]
    for task in plan.tasks:
        cells = [results.cells.get((s, task.path.name)) for s in systems]
        columns.append(_column(cells, min if task.metric in LOWER_IS_BETTER else max))
    for frame in frames:
        columns.append(_column([results.aggregates[frame].get(s) for s in systems], max))
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1), *zip(*columns, strict=True)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    notes = [f"- {note}" for note in results.notes]
    return "\n".join([*lines, "", _caption(results), *([""] if notes else []), *notes]) + "\n"


def _head(task: Task) -> str:
    """The paper's short name, for the paper's tasks only; the folder's for parts and likenesses."""
    column = published.column(task)
    return column.short if column else task.path.name


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f}" if parameters else "-"


def _column(estimates: Sequence[Estimate | None], best_of: Callable[..., float]) -> list[str]:
    best = best_of((round(e.mean, 1) for e in estimates if e is not None), default=None)
    texts = ["-" if e is None else str(e) for e in estimates]
    return [
        f"**{text}**" if e is not None and round(e.mean, 1) == best else text
        for e, text in zip(estimates, texts, strict=True)
    ]


def _caption(results: Results) -> str:
    plan = results.plan
    metrics = ", ".join(f"{task.path.name} ({task.metric})" for task in plan.tasks)
    plural = "s" if plan.seeds > 1 else ""
    text = (
        f"Test scores in percent by {_probes(plan)} (grid: {plan.grid}), mean over "
        f"{plan.seeds} seed{plural} and 95 % interval (Student t). s(m) is relative to the worst "
        f"and best single runs of the systems in this table, over {len(plan.tasks)} task(s): "
        f"{metrics}."
    )
    if results.aggregates[PAPER]:
        text += " s(m), paper is on the scale of the paper's Table 2."
    return text


def _probes(plan: Plan) -> str:
    """Whose probes the scores come from."""
    official = [task.path.name for task in plan.tasks if plan.engine_of(task) == "heareval"]
    if len(official) == len(plan.tasks):
        return "the official heareval"
    also = f", on {', '.join(official)} by the official heareval" if official else ""
    return f"the engine `fast`, our own training of heareval's probes{also}"


def _record(results: Results) -> dict[str, Any]:
    plan = results.plan
    return {
        "systems": [asdict(entrant) for entrant in plan.entrants],
        "tasks": [{**asdict(task), "path": str(task.path)} for task in plan.tasks],
        "seeds": plan.seeds,
        "grid": plan.grid,
        "engine": plan.engine,
        "runs": [{**asdict(run), "percent": run.percent} for run in results.runs],
        "means": [
            {"system": system, "task": task, **asdict(cell)}
            for (system, task), cell in results.cells.items()
        ],
        "s(m)": {
            frame: {system: asdict(value) for system, value in column.items()}
            for frame, column in results.aggregates.items()
        },
        "notes": list(results.notes),
        "versions": versions(),
        "hardware": hardware(),
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    machine = {"machine": platform.machine(), "system": platform.system()}
    return {**machine, "cpus": os.cpu_count(), "gpu": gpu}
