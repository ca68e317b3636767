"""Runs a plan in worker processes: restartable, interruptible, one failure never stops the rest.

Each worker computes with one thread: for fits this small several threads are slower, and their
number would change the results. Workers stay warm, so heareval's imports are paid once each.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joblib.externals.loky import ProcessPoolExecutor, as_completed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm import tqdm

from eval import kit
from eval.plan import Entrant, Plan
from eval.tasks import Task

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class SweepError(RuntimeError):
    """The workers themselves broke down."""


@dataclass(frozen=True)
class Job:
    """One call of the kit."""

    name: str
    log: Path
    step: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Failure:
    """A job that raised."""

    name: str
    error: str
    log: Path


def sweep(plan: Plan, jobs: int) -> list[Failure]:
    """Compute what `plan` still lacks, `jobs` steps at a time; finished runs are never repeated.

    Raises:
        SweepError: if a worker process was killed. What is finished stays.
    """
    with workers(jobs) as executor:
        failures = _run(executor, list(_embedding_jobs(plan)), "embeddings")
        return failures + _run(executor, list(_prediction_jobs(plan)), "probes")


@contextmanager
def workers(jobs: int) -> Iterator[Any]:
    """Warm worker processes; killed if the block is left by an exception or Ctrl-C."""
    executor = ProcessPoolExecutor(jobs, env=ONE_THREAD, initializer=_prepare_worker)
    try:
        yield executor
    except BaseException:
        executor.shutdown(kill_workers=True)
        raise
    executor.shutdown()


def _prepare_worker() -> None:
    # Lightning takes Ctrl-C as "stop training here" and heareval would go on to score the
    # half-trained probe: only the parent may be interrupted, and it kills the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(1)


def _pairs(plan: Plan) -> Iterable[tuple[Entrant, Task]]:
    """Every (system, task), the long tasks first so that no worker idles at the end."""
    tasks = sorted(plan.tasks, key=lambda task: -task.clips * task.folds)
    return [(entrant, task) for task in tasks for entrant in plan.entrants]


def _embedding_jobs(plan: Plan) -> Iterator[Job]:
    for entrant, task in _pairs(plan):
        folder = plan.embeddings(entrant, task)
        if kit.embedded(task, folder) is None:
            name = f"{entrant.system.label} on {task.path.name}, embeddings"
            yield Job(name, folder / kit.EMBEDDINGS_LOG, kit.embed, (entrant.system, task, folder))


def _prediction_jobs(plan: Plan) -> Iterator[Job]:
    """Seed by seed, so that every task has results early."""
    for seed in range(plan.seeds):
        for entrant, task in _pairs(plan):
            folder = plan.predictions(entrant, task, seed)
            embeddings = kit.embedded(task, plan.embeddings(entrant, task))
            if embeddings is not None and not kit.finished(folder):
                name = f"{entrant.system.label} on {task.path.name}, seed {seed}"
                arguments = (embeddings, folder, seed, plan.grid)
                yield Job(name, folder / kit.PREDICTIONS_LOG, kit.predict, arguments)


def _run(executor: Any, jobs: Sequence[Job], title: str) -> list[Failure]:
    failures = []
    futures = {executor.submit(_attempt, job): job for job in jobs}
    with tqdm(total=len(jobs), desc=title, unit="run", disable=not jobs) as bar:
        for future in as_completed(futures):
            job = futures[future]
            try:
                failure = future.result()
            except TerminatedWorkerError as error:
                raise SweepError(
                    f"a worker was killed, perhaps for memory, near {job.name!r}: run the same "
                    "command with fewer --jobs; what is finished stays"
                ) from error
            bar.set_postfix_str(job.name)
            bar.update()
            if failure is not None:
                bar.write(f"failed: {failure.name}: {failure.error}")
                failures.append(failure)
    return failures


def _attempt(job: Job) -> Failure | None:
    """Run one job in a worker; an error goes to the job's log and comes back as a `Failure`."""
    try:
        job.step(*job.arguments)
    except (Exception, SystemExit) as error:  # whatever heareval or a HEAR module may raise
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("a") as log:
            log.write(traceback.format_exc())
        return Failure(job.name, f"{type(error).__name__}: {error}", job.log)
    return None
