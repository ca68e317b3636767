"""`hearbench run`: evaluate systems on tasks, and tell what came out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import joblib

from hearbench import report as reports
from hearbench.exit_codes import INTERRUPTED
from hearbench.probes import batched
from hearbench.probes.heareval_adapter import Grid
from hearbench.results import Results, collect, write
from hearbench.run.plan import Engine, Model, Plan, PlanError, lock_dir
from hearbench.run.sweep import sweep
from hearbench.run.workers import Backend, Failure, SweepError
from hearbench.synthetic.writer import write_tasks
from hearbench.systems.registry import fingerprints, parse_systems
from hearbench.tasks.folders import Task, find_tasks, with_audio
from hearbench.tasks.resample import provide_audio


def run(
    tasks_dir: Path | None = None,
    tasks: tuple[str, ...] = (),
    systems: tuple[str, ...] = (),
    seeds: int = 10,
    out: Path = Path("runs/eval"),
    jobs: int | None = None,
    grid: Grid = "paper",
    engine: Engine = "heareval",
    backend: Backend = "loky",
) -> int:
    """Evaluate systems on tasks with several seeds; finished runs are never repeated.

    Args:
        tasks_dir: folder of HEAR task folders; without it ten miniature tasks are generated.
        tasks: names of the tasks, all of the folder if none.
        systems: naive, spectrum, logmel, random, ssast_tiny, axlstm_tiny (all of them if none),
            NAME@CHECKPOINT (`hearbench systems` lists the names), or [LABEL=]MODULE[@MODEL] for
            any other HEAR module.
        seeds: how many seeds, from 0 on.
        out: folder of everything that is computed.
        jobs: steps at the same time, one thread each; as many as there are cores if not given.
        grid: search space of the probes: the paper's 2 points or 8 of heareval's own 16.
        engine: what trains the probes: the official heareval, or our own trainer, which takes all
            seeds of a task at once. Event tasks go to heareval in any case.
        backend: where the steps run: loky is this machine, dask and ray are clusters.
    """
    if jobs is not None and jobs < 1:
        raise PlanError(f"jobs={jobs}: at least one is needed")
    chosen = parse_systems(systems)
    with lock_dir(out):
        folder = tasks_dir if tasks_dir is not None else miniature_tasks(out / "tasks")
        found = find_tasks(folder, tasks)
        prints = fingerprints(chosen)
        models = tuple(Model(s, f) for s, f in zip(chosen, prints, strict=True))
        rates = {model.fingerprint.sample_rate for model in models}
        for task in found:
            for note in provide_audio(task, rates):
                print(note)
        found = tuple(with_audio(task, rates) for task in found)
        official = not_for_fast(found) if engine == "fast" else ()
        plan = Plan(out.resolve(), models, found, seeds, grid, engine, official)
        plan.save()
        try:
            failures = sweep(plan, jobs or joblib.cpu_count(), backend)
        except KeyboardInterrupt:
            report(plan)
            print("Interrupted. What is finished stays; run the same command again to go on.")
            return INTERRUPTED
        except SweepError:
            report(plan)
            raise
        reports.write(report(plan))
        return conclude(out, failures)


def miniature_tasks(folder: Path) -> Path:
    """The ten generated tasks, under `folder`; made if they are not there."""
    try:
        return write_tasks(folder)
    except ValueError as error:
        raise PlanError(str(error)) from error


def not_for_fast(tasks: Sequence[Task]) -> tuple[str, ...]:
    """The names of those that hearbench.probes.batched can't train on, which are told."""
    names = tuple(task.path.name for task in tasks if not batched.supports(task.path))
    if names:
        print(f"By heareval, since the fast engine can't: {', '.join(names)}")
    return names


def report(plan: Plan) -> Results:
    """Write the results of `plan` and print its table; gives them."""
    results = collect(plan)
    write(results)
    print("\n" + reports.write_table(results))
    return results


def conclude(out: Path, failures: list[Failure]) -> int:
    """Say what failed, where the results are and what to do next; gives the exit status."""
    for failure in failures:
        print(f"Failed: {failure.name}: {failure.error}\n  log: {failure.log}")
    print(f"Results: {out}/report/report.html; table.md, results.csv and results.json. ", end="")
    if failures:
        print(f"{len(failures)} failed: repair the cause, then run the same command again.")
        return 1
    print("Next: hearbench run --help for other systems, tasks and seeds.")
    return 0
