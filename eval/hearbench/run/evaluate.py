"""One evaluation, from its options to its results and report: `evaluate_systems`."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import joblib
import tyro

from hearbench import report
from hearbench.options import option
from hearbench.probes import fast
from hearbench.probes.grid import Grid
from hearbench.probes.official import check_installed
from hearbench.results import Results, collect, write
from hearbench.run.plan import Engine, EvaluatedSystem, Plan, PlanError, earlier_precision, lock_dir
from hearbench.run.sweep import sweep
from hearbench.run.workers import Backend, Failure
from hearbench.synthetic.writer import chosen_tasks, write_tasks
from hearbench.systems.fingerprint import fingerprints
from hearbench.systems.specs import parse_systems
from hearbench.tasks.audio import with_audio
from hearbench.tasks.folders import Task, find_tasks
from hearbench.tasks.resample import provide_audio


@dataclass(frozen=True)
class Options:
    """How systems are evaluated."""

    tasks_dir: Annotated[Path | None, option("FOLDER")] = None
    """Folder of HEAR task folders. (default: miniature tasks are generated)"""
    tasks: Annotated[tuple[str, ...], option("NAME ...")] = ()
    """Names of the tasks. (default: all in the folder, or all ten miniature tasks)"""
    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 10
    """Number of seeds of the probes, starting at 0."""
    workers: Annotated[int | None, tyro.conf.arg(name="jobs"), option("N")] = None
    """Number of parallel jobs, with one thread each. (default: one per CPU)"""
    grid: Grid = "paper"
    """Search space of the probes: the paper's 2 points or 8 of heareval's own 16."""
    engine: Engine = "heareval"
    """Trainer of the probes: the official heareval, or our own, which trains all seeds of a task
    at once. Event tasks always go to heareval."""
    backend: Backend = "loky"
    """Backend that runs the jobs: loky on this machine, dask and ray on clusters."""

    def __post_init__(self) -> None:
        for flag, value in (("--seeds", self.seeds), ("--jobs", self.workers)):
            if value is not None and value < 1:
                raise PlanError(f"{flag} {value}: use 1 or more")


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_systems` returns."""

    out: Path
    """The evaluation's folder, as it was given."""
    results: Results
    """The results of all finished runs."""
    failures: tuple[Failure, ...]
    """The jobs that failed; the same call computes them again."""

    @property
    def outcome(self) -> str:
        """The failures, the location of the results and the next step, in words."""
        lines = [f"Failed: {job.name}: {job.error}\n  log: {job.log}" for job in self.failures]
        files = "table.md, results.csv and results.json"
        lines.append(f"Report: {self.out}/report/report.html; scores: {files}.")
        again = "fix the cause, then run the same command again."
        more = "hearbench run with other --systems or more --seeds"
        lines.append(
            f"{len(self.failures)} failed: {again}"
            if self.failures
            else f"Next: hearbench score {self.out}, or {more}"
        )
        return "\n".join(lines)


def evaluate_systems(
    systems: tuple[str, ...], out: Path, options: Options, note: Callable[[str], object]
) -> Evaluation:
    """Evaluate systems on tasks, and write the scores and the report.

    Finished work is never repeated: the same call resumes after an error or Ctrl-C. A script calls
    it under `if __name__ == "__main__":`, since its processes import the script again.

    Args:
        systems: specs as `hearbench.systems.specs.parse_systems` takes them.
        out: the evaluation's folder.
        options: how to evaluate.
        note: called with each message for the user: notes on the tasks, and at the end the table of
            scores, even if the evaluation is interrupted.

    Raises:
        PlanError, TaskError, SystemSpecError, HearevalError: naming what is wrong and the remedy.
        SweepError: if the workers broke down.
    """
    _check_guard()
    with lock_dir(out):
        plan = make_plan(systems, out, options, note)
        try:
            failures = sweep(plan, options.workers or joblib.cpu_count(), options.backend)
        finally:
            results = collect(plan)
            write(results)
            note("\n" + report.write_table(results))
        report.write(results)
    return Evaluation(out, results, tuple(failures))


def _check_guard() -> None:
    """Raise in a process that is still importing the script that called `evaluate_systems`."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise PlanError(
            "evaluate_systems starts processes, and each imports your script again: call it under "
            'if __name__ == "__main__":'
        )


def make_plan(
    systems: tuple[str, ...], out: Path, options: Options, note: Callable[[str], object]
) -> Plan:
    """Read the tasks, load each system once and save the plan in `out`.

    Args:
        systems: specs as `hearbench.systems.specs.parse_systems` takes them.
        out: the evaluation's folder, locked by the caller (`lock_dir`).
        options: how to evaluate.
        note: called with each message to show to the user before the start.

    Raises:
        PlanError, TaskError, SystemSpecError, HearevalError: naming what is wrong and the remedy.
    """
    chosen = parse_systems(systems)
    tasks = check_options(options)
    if only_heareval := _only_heareval(tasks, options.engine):
        listed = ", ".join(only_heareval)
        note(f"Trained by heareval, because the fast engine does not support them: {listed}")
    prints = fingerprints(chosen)
    if options.tasks_dir is None:
        tasks = find_tasks(write_tasks(out / "tasks", options.tasks), options.tasks)
    evaluated = tuple(map(EvaluatedSystem, chosen, prints))
    rates = {system.fingerprint.sample_rate for system in evaluated}
    for task in tasks:
        for sentence in provide_audio(task, rates):
            note(sentence)
    tasks = tuple(with_audio(task, rates) for task in tasks)
    # also for heareval, so that all evaluations by `fast` in this folder use the same
    precision = earlier_precision(out) or fast.fastest_precision()
    settings = options.seeds, options.grid, options.engine, only_heareval, precision
    plan = Plan(out.resolve(), evaluated, tasks, *settings)
    plan.save()
    return plan


def check_options(options: Options) -> tuple[Task, ...]:
    """Check the tasks and the engine before anything expensive, such as training, starts.

    Returns:
        The tasks of the folder; none if miniature tasks are to be generated.

    Raises:
        TaskError: if the folder is not one of tasks, one is broken, or a name is unknown.
        HearevalError: if heareval is needed and not installed.
    """
    if options.engine == "heareval":
        check_installed("--engine heareval (--engine fast is the other one)")
    if options.tasks_dir is None:
        chosen_tasks(options.tasks)
        return ()
    tasks = find_tasks(options.tasks_dir, options.tasks)
    for name in _only_heareval(tasks, options.engine):
        check_installed(f"the task {name}")
    return tasks


def _only_heareval(tasks: tuple[Task, ...], engine: Engine) -> tuple[str, ...]:
    """The folders of the tasks that the engine leaves to heareval."""
    if engine == "heareval":
        return ()
    return tuple(task.path.name for task in tasks if not fast.supports(task.metadata))
