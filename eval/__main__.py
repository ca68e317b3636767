"""Evaluate audio embeddings by the official heareval: `python -m eval run | score | tasks`.

`python -m eval ablations` trains and evaluates the rows of one of the paper's tables.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import joblib
import tyro

from eval import ablations as paper_tables
from eval import table as result_tables
from eval.ablations import AblationError
from eval.kit import Grid
from eval.miniature.writer import write_tasks
from eval.plan import Entrant, Plan, PlanError
from eval.sweep import Failure, SweepError, sweep
from eval.systems import SystemSpecError, fingerprints, parse_systems
from eval.tasks import Task, TaskError, check_audio, find_tasks
from hear_axlstm.pretrain.interrupt import Interrupted
from hear_axlstm.pretrain.recipes import TableName

INTERRUPTED = 130  # the shell's exit status after Ctrl-C


def run(
    tasks_dir: Path | None = None,
    tasks: tuple[str, ...] = (),
    systems: tuple[str, ...] = (),
    seeds: int = 10,
    out: Path = Path("runs/eval"),
    jobs: int | None = None,
    grid: Grid = "paper",
) -> int:
    """Evaluate systems on tasks with several seeds; finished runs are never repeated.

    Args:
        tasks_dir: folder of HEAR task folders; without it ten miniature tasks are generated.
        tasks: names of the tasks, all of the folder if none.
        systems: naive, random, axlstm_tiny, or [LABEL=]MODULE[@MODEL] for any other HEAR module.
        seeds: how many seeds, from 0 on.
        out: folder of everything that is computed.
        jobs: steps at the same time, one thread each; as many as there are cores if not given.
        grid: search space of the probes: the paper's 2 points or 8 of heareval's own 16.
    """
    if jobs is not None and jobs < 1:
        raise PlanError(f"jobs={jobs}: at least one is needed")
    chosen = parse_systems(systems)
    folder = tasks_dir if tasks_dir is not None else miniature_tasks(out / "tasks")
    found = find_tasks(folder, tasks)
    prints = fingerprints(chosen)
    entrants = tuple(Entrant(s, f) for s, f in zip(chosen, prints, strict=True))
    for rate in {entrant.fingerprint.sample_rate for entrant in entrants}:
        for task in found:
            check_audio(task, rate)
    plan = Plan(out.resolve(), entrants, found, seeds, grid)
    plan.save()
    try:
        failures = sweep(plan, jobs or joblib.cpu_count())
    except KeyboardInterrupt:
        report(plan)
        print("Interrupted. What is finished stays; run the same command again to go on.")
        return INTERRUPTED
    report(plan)
    return conclude(out, failures)


def score(out: Annotated[Path, tyro.conf.Positional] = Path("runs/eval")) -> int:
    """Rebuild the table from the finished runs of the last evaluation.

    Args:
        out: the evaluation's folder.
    """
    report(Plan.load(out.resolve()))
    return conclude(out, [])


def tasks(folder: Annotated[Path, tyro.conf.Positional]) -> int:
    """List the tasks of a folder and check them.

    Args:
        folder: folder of HEAR task folders.
    """
    found = find_tasks(folder)
    width = max(len(task.path.name) for task in found)
    print(f"{'task':{width}}  {'metric':24} {'folds':>5} {'clips':>6} {'classes':>7}")
    for task in found:
        print(_line(task, width))
    return 0


def ablations(
    data: Annotated[Path | None, tyro.conf.Positional] = None,
    *,
    table: TableName = "expansion",
    epochs: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    tasks_dir: Path | None = None,
    tasks: tuple[str, ...] = (),
    seeds: int = 10,
    out: Path = Path("runs/ablations"),
    jobs: int | None = None,
) -> int:
    """Train and score the rows of one of the paper's tables; what is finished is never repeated.

    Args:
        data: what `axlstm pack` wrote, or a folder of audio; without it a generated toy corpus.
        table: comparison (the paper's Table 2), expansion (3), patch (4) or gating (5).
        epochs: in place of the paper's 100.
        batch_size: in place of the paper's 1024.
        lr: peak learning rate, in place of the paper's 1.5e-4 x batch / 256.
        tasks_dir: folder of HEAR task folders; without it ten miniature tasks are generated.
        tasks: names of the tasks, all of the folder if none.
        seeds: how many seeds, from 0 on.
        out: folder of everything that is computed.
        jobs: evaluation steps at the same time, see `run`.
    """
    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    changes = {name: value for name, value in given.items() if value is not None}
    try:
        trained = paper_tables.train(table, data, out, changes)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return INTERRUPTED
    chosen = paper_tables.systems(table, trained)
    status = run(tasks_dir, tasks, chosen, seeds, out / "eval", jobs)
    if status != INTERRUPTED:
        results = result_tables.collect(Plan.load((out / "eval").resolve()))
        print("\n" + paper_tables.write(table, trained, results, out))
        print(f"Table: {out / table}.md")
    return status


def miniature_tasks(folder: Path) -> Path:
    """The ten generated tasks, under `folder`; made if they are not there."""
    try:
        return write_tasks(folder)
    except ValueError as error:
        raise PlanError(str(error)) from error


def report(plan: Plan) -> None:
    """Write the results of `plan` and print its table."""
    print("\n" + result_tables.write(result_tables.collect(plan)))


def conclude(out: Path, failures: list[Failure]) -> int:
    """Say what failed, where the results are and what to do next; gives the exit status."""
    for failure in failures:
        print(f"Failed: {failure.name}: {failure.error}\n  log: {failure.log}")
    print(f"Results: {out}/table.md, results.csv and results.json. ", end="")
    if failures:
        print(f"{len(failures)} failed: repair the cause, then run the same command again.")
        return 1
    print("Next: python -m eval run --help for other systems, tasks and seeds.")
    return 0


def _line(task: Task, width: int) -> str:
    return (
        f"{task.path.name:{width}}  {task.metric:24} {task.folds:5} {task.clips:6} {task.classes:7}"
    )


def main() -> int:
    """The command line."""
    # A scheduler's "stop" is treated like Ctrl-C: finish cleanly, keep what is there.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    commands: dict[str, Callable[..., int]] = {
        "run": run,
        "score": score,
        "tasks": tasks,
        "ablations": ablations,
    }
    try:
        return tyro.extras.subcommand_cli_from_dict(
            commands, prog="python -m eval", description=__doc__
        )
    except (TaskError, SystemSpecError, PlanError, SweepError, AblationError) as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("Interrupted before anything was computed.", file=sys.stderr)
        return INTERRUPTED
    return 2


if __name__ == "__main__":
    sys.exit(main())
