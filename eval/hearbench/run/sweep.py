"""Computation of the missing parts of a plan: embeddings, then probes by one of two engines.

    heareval   a job trains the probes of one system, task and seed by the official heareval
    fast       a job trains the probes of one system and task for several seeds together

Both read the same embeddings, and write the same files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch

from hearbench.embed import embed, embedded, embedded_seconds
from hearbench.embed.loop import LOG as EMBEDDINGS_LOG
from hearbench.probes import fast, official
from hearbench.progress import Progress
from hearbench.run.plan import EvaluatedSystem, Plan
from hearbench.run.workers import Backend, Failure, Job, run
from hearbench.tasks.audio import find_clips
from hearbench.tasks.folders import Task

Missing = tuple[EvaluatedSystem, Task, Path, dict[int, Path]]
"""A system, a task, its embeddings, and seed -> folder of the runs that are missing."""

HOURS = (
    "{desc}: {percentage:3.0f}%|{bar}| {n:.2f}/{total:.2f} h [{elapsed}<{remaining}, {rate_fmt}]"
)


def sweep(plan: Plan, jobs: int, backend: Backend = "loky") -> list[Failure]:
    """Compute the missing parts of `plan`, `jobs` steps at a time; finished runs are kept.

    Raises:
        SweepError: if a worker process was killed, or the backend isn't installed. Finished work
            is kept.
    """
    # One model at a time on a GPU: its batches fill the memory.
    on_gpu = 1 if torch.cuda.is_available() else jobs
    failures = _embed(plan, on_gpu, backend)
    return failures + _train(plan, on_gpu if plan.engine == "fast" else jobs, backend)


def _embed(plan: Plan, jobs: int, backend: Backend) -> list[Failure]:
    missing = [
        (system, task, plan.embeddings(system, task))
        for system, task in _pairs(plan)
        if embedded(task, plan.embeddings(system, task)) is None
    ]
    # With few jobs, the remaining cores are used within the jobs.
    threads = max(1, jobs // max(1, len(missing))) if backend == "loky" else 1
    todo = []
    for system, task, folder in missing:
        name = f"{system.label} on {task.path.name}, embeddings"
        arguments = (system.system, task, folder, threads, system.fingerprint)
        todo.append(Job(name, (folder,), folder / EMBEDDINGS_LOG, embed, arguments))
    total = sum(_hours(task, system.fingerprint.sample_rate) for system, task, _ in missing)
    options = {"unit": "h", "smoothing": 0, "bar_format": HOURS, "disable": not todo}
    bar = Progress(desc="embeddings", total=total, **options)

    def hours_done() -> float:
        done = sum(embedded_seconds(folder) for _, _, folder in missing) / 3600
        return min(done, total)  # they are rounded

    return _compute(todo, bar, hours_done, jobs, backend)


def _train(plan: Plan, jobs: int, backend: Backend) -> list[Failure]:
    missing = _missing_runs(plan)
    runs = [(system, task, seed) for system, task, _, folders in missing for seed in folders]
    bar = Progress(desc="probes", total=len(runs), unit="run", disable=not runs)
    todo = _jobs_of_fast(plan, missing, jobs) + _jobs_of_heareval(plan, missing)
    return _compute(todo, bar, lambda: sum(plan.finished(*r) for r in runs), jobs, backend)


def _jobs_of_heareval(plan: Plan, missing: Sequence[Missing]) -> list[Job]:
    """One job per run, ordered by seed, so that every task has results early."""
    jobs = []
    for seed in range(plan.seeds):
        for system, task, embeddings, folders in missing:
            if plan.engine_of(task) == "heareval" and seed in folders:
                name = f"{system.label} on {task.path.name}, seed {seed}"
                folder = folders[seed]
                log = folder / "output.log"
                arguments = (embeddings, {seed: folder}, plan.grid, log)
                jobs.append(Job(name, (folder,), log, official.train_and_test, arguments))
    return jobs


def _jobs_of_fast(plan: Plan, missing: Sequence[Missing], jobs: int) -> list[Job]:
    """One job per system and task, or several with some seeds each so that no worker is idle."""
    todo = []
    of_fast = [pair for pair in missing if plan.engine_of(pair[1]) == "fast"]
    for system, task, embeddings, folders in of_fast:
        parts = min(len(folders), -(-jobs // len(of_fast)))
        for part in range(parts):
            seeds = sorted(folders)[part::parts]
            name = f"{system.label} on {task.path.name}, seeds {', '.join(map(str, seeds))}"
            some = {seed: folders[seed] for seed in seeds}
            log = some[seeds[0]].parent / f"output-seed{seeds[0]:02d}.log"
            arguments = (embeddings, some, plan.grid, log, plan.precision)
            todo.append(Job(name, tuple(some.values()), log, fast.train_and_test, arguments))
    return todo


def _missing_runs(plan: Plan) -> list[Missing]:
    """List the embedded tasks that have seeds without probes."""
    missing = []
    for system, task in _pairs(plan):
        embeddings = embedded(task, plan.embeddings(system, task))
        seeds = [seed for seed in range(plan.seeds) if not plan.finished(system, task, seed)]
        todo = {seed: plan.predictions(system, task, seed) for seed in seeds}
        if embeddings is not None and todo:
            missing.append((system, task, embeddings, todo))
    return missing


def _pairs(plan: Plan) -> list[tuple[EvaluatedSystem, Task]]:
    """Every (system, task), the long tasks first so that no worker idles at the end."""
    tasks = sorted(plan.tasks, key=lambda task: -task.clips * task.folds)
    return [(system, task) for task in tasks for system in plan.systems]


@lru_cache
def _hours(task: Task, sample_rate: int) -> float:
    return sum(clip.samples for clip in find_clips(task, sample_rate)) / sample_rate / 3600


def _compute(
    todo: Sequence[Job],
    bar: Progress,
    done: Callable[[], float],
    jobs: int,
    backend: Backend,
) -> list[Failure]:
    if not todo:
        return []
    return run(todo, jobs, backend, bar, done)
