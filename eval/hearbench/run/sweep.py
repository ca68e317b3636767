"""Computation of the missing parts of a plan: embeddings, then probes by one of two engines.

    heareval   a job trains the probes of one system, task and seed by the official heareval
    fast       a job trains the probes of one system and task for several seeds together

Both read the same embeddings, and write the same files.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def sweep(plan: Plan, workers: int, backend: Backend = "loky") -> list[Failure]:
    """Compute the missing parts of `plan` by `workers` processes; finished runs are kept.

    Raises:
        SweepError: if a worker process was killed, or the backend isn't installed. Finished work
            is kept.
    """
    # One model at a time on a GPU: its batches fill the memory.
    on_gpu = 1 if torch.cuda.is_available() else workers
    failures = _embed(plan, on_gpu, backend)
    return failures + _train(plan, on_gpu if plan.engine == "fast" else workers, backend)


def _embed(plan: Plan, workers: int, backend: Backend) -> list[Failure]:
    missing = [
        (system, task, plan.embeddings(system, task))
        for system, task in _pairs(plan)
        if _unfinished(plan, system, task) and embedded(task, plan.embeddings(system, task)) is None
    ]
    # With few jobs, each uses the cores of the idle workers.
    threads = max(1, workers // max(1, len(missing))) if backend == "loky" else 1
    jobs = []
    for system, task, folder in missing:
        name = f"{system.label} on {task.path.name}, embeddings"
        arguments = (system.system, task, folder, threads, system.fingerprint)
        jobs.append(Job(name, (folder,), folder / EMBEDDINGS_LOG, embed, arguments))
    total = sum(_hours(task, system.fingerprint.sample_rate) for system, task, _ in missing)
    options = {"unit": "h", "smoothing": 0, "bar_format": HOURS, "disable": not jobs}
    bar = Progress(desc="embeddings", total=total, **options)

    def hours_done() -> float:
        done = sum(embedded_seconds(folder) for _, _, folder in missing) / 3600
        return min(done, total)  # they are rounded

    return run(jobs, workers, backend, bar, hours_done) if jobs else []


def _train(plan: Plan, workers: int, backend: Backend) -> list[Failure]:
    missing = _missing_runs(plan)
    runs = [(system, task, seed) for system, task, _, folders in missing for seed in folders]
    bar = Progress(desc="probes", total=len(runs), unit="run", disable=not runs)
    jobs = _jobs_of_fast(plan, missing, workers) + _jobs_of_heareval(plan, missing)

    def finished() -> int:
        return sum(plan.finished(*r) for r in runs)

    return run(jobs, workers, backend, bar, finished) if jobs else []


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


def _jobs_of_fast(plan: Plan, missing: Sequence[Missing], workers: int) -> list[Job]:
    """One job per system and task, or several with some seeds each so that no worker is idle."""
    jobs = []
    of_fast = [pair for pair in missing if plan.engine_of(pair[1]) == "fast"]
    for system, task, embeddings, folders in of_fast:
        parts = min(len(folders), -(-workers // len(of_fast)))
        for part in range(parts):
            seeds = sorted(folders)[part::parts]
            name = f"{system.label} on {task.path.name}, seeds {', '.join(map(str, seeds))}"
            some = {seed: folders[seed] for seed in seeds}
            log = some[seeds[0]].parent / f"output-seed{seeds[0]:02d}.log"
            arguments = (embeddings, some, plan.grid, log, plan.precision)
            jobs.append(Job(name, tuple(some.values()), log, fast.train_and_test, arguments))
    return jobs


def _missing_runs(plan: Plan) -> list[Missing]:
    """List the embedded tasks that have seeds without probes."""
    missing = []
    for system, task in _pairs(plan):
        embeddings = embedded(task, plan.embeddings(system, task))
        seeds = _unfinished(plan, system, task)
        todo = {seed: plan.predictions(system, task, seed) for seed in seeds}
        if embeddings is not None and todo:
            missing.append((system, task, embeddings, todo))
    return missing


def _unfinished(plan: Plan, system: EvaluatedSystem, task: Task) -> list[int]:
    """The seeds whose run is missing; without any, the embeddings are not needed."""
    return [seed for seed in range(plan.seeds) if not plan.finished(system, task, seed)]


def _pairs(plan: Plan) -> list[tuple[EvaluatedSystem, Task]]:
    """Every (system, task), the long tasks first so that no worker idles at the end."""
    tasks = sorted(plan.tasks, key=lambda task: -task.clips * task.folds)
    return [(system, task) for task in tasks for system in plan.systems]


@lru_cache
def _hours(task: Task, sample_rate: int) -> float:
    return sum(clip.samples for clip in find_clips(task, sample_rate)) / sample_rate / 3600
