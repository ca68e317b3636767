"""Jobs in worker processes, on this machine or on a cluster; a failed job never stops the rest.

joblib runs them. Each worker computes one job at a time. Jobs write to a file system that all
workers see, and leave nothing incomplete that looks complete: a worker may be killed at any moment.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from joblib import Parallel, delayed, parallel_config, register_parallel_backend
from joblib.executor import get_memmapping_executor
from joblib.parallel import LokyBackend

from hearbench.errors import HearbenchError
from hearbench.progress import Progress

Backend = Literal["loky", "dask", "ray"]

MODULES = {"loky": "joblib", "dask": "distributed", "ray": "ray"}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
POLL_EVERY = 1.0  # seconds between checks of the progress and of the parent process
IDLE_TIMEOUT = 300  # seconds after which an idle worker ends
DEATHS = {"TerminatedWorkerError", "KilledWorker", "WorkerCrashedError", "RayActorError"}
"""Errors of loky, Dask and Ray for a worker process that died."""
ONE_JOB = threading.Lock()  # of a process: jobs redirect its output and patch heareval


class SweepError(HearbenchError, RuntimeError):
    """Raised if worker processes died, or could not be started."""


@dataclass(frozen=True)
class Job:
    """One call of a function that writes into folders of its own."""

    name: str
    folders: tuple[Path, ...]
    log: Path
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Failure:
    """A job that raised an error."""

    name: str
    error: str
    log: Path


def run(
    jobs: Sequence[Job], workers: int, backend: Backend, bar: Progress, done: Callable[[], float]
) -> list[Failure]:
    """Run `jobs` and return those that failed.

    Args:
        jobs: the jobs, long ones first.
        workers: number of processes, with one thread each; a running cluster has its own number.
        backend: `loky` for this machine. `dask` and `ray` connect to the cluster that their own
            settings name (DASK_SCHEDULER_ADDRESS, RAY_ADDRESS), or else start one here.
        bar: shows the progress; closed at the end.
        done: returns the finished part of the bar's total, based on the jobs' files.

    Raises:
        SweepError: if the backend isn't installed or fails, or a worker process was killed.
            Finished work is kept.
    """
    failures = []
    with bar, _followed(bar, done), _configured(backend, workers) as count:
        # joblib's backend for Ray can't hand out results one by one
        how = "list" if backend == "ray" else "generator_unordered"
        parallel = Parallel(n_jobs=count, batch_size=1, pre_dispatch="all", return_as=how)
        outcomes: Any = ()
        try:
            outcomes = parallel(delayed(attempt)(job) for job in jobs)
            for failure in outcomes:
                if failure is not None:
                    bar.write(f"failed: {failure.name}: {failure.error}")
                    failures.append(failure)
        except Exception as error:  # from the backend: `attempt` raises none
            raise SweepError(_reason(error, backend)) from error
        finally:
            if how != "list" and outcomes:
                outcomes.close()  # kills the workers if they are still busy
    return failures


def attempt(job: Job) -> Failure | None:
    """Run one job in a worker; an error goes to the job's log and is returned as a `Failure`."""
    import torch

    torch.set_num_threads(1)  # more are slower for fits this small, and change the results
    try:
        with ONE_JOB, ExitStack() as stack:
            for folder in job.folders:
                folder.parent.mkdir(parents=True, exist_ok=True)
                # A cluster may still be busy with it for a sweep that was killed.
                stack.enter_context(FileLock(folder.parent / f".{folder.name}.lock"))
            job.function(*job.arguments)
    except (Exception, SystemExit) as error:  # whatever heareval or a HEAR module may raise
        with suppress(OSError):  # the disk may be full
            job.log.parent.mkdir(parents=True, exist_ok=True)
            with job.log.open("a", encoding="utf-8") as file:
                file.write(traceback.format_exc())
        return Failure(job.name, f"{type(error).__name__}: {error}", job.log)
    return None


def _reason(error: Exception, backend: Backend) -> str:
    """Why the jobs could not be run, and what to do."""
    name = type(error).__name__
    if DEATHS & {kind.__name__ for kind in type(error).__mro__}:
        return (
            f"a worker process died, perhaps out of memory ({name}): "
            "run the same command with fewer --jobs; finished work is kept"
        )
    return (
        f"--backend {backend} failed ({name}: {error}): fix the cause, then run the same command "
        "again; finished work is kept"
    )


@contextmanager
def _followed(bar: Progress, done: Callable[[], float]) -> Iterator[None]:
    """Update `bar` to `done()` periodically, even during long jobs."""
    stop = threading.Event()

    def update() -> None:
        if (more := done() - bar.n) > 0:
            bar.update(more)

    def follow() -> None:
        while not stop.wait(POLL_EVERY):
            update()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        update()


@contextmanager
def _configured(backend: Backend, workers: int) -> Iterator[int]:
    """Make joblib use this backend; yields its number of jobs (-1: all workers of a cluster)."""
    try:
        import_module(MODULES[backend])
    except ImportError as error:
        raise SweepError(
            f"--backend {backend} is not installed ({error}): on every machine, "
            f"pip install './eval[{backend}]'"
        ) from error
    with ExitStack() as stack:
        if backend == "dask":
            stack.enter_context(_dask(workers))
        elif backend == "ray":
            stack.enter_context(_ray(workers))
        else:
            register_parallel_backend("hearbench", _Processes)
        stack.enter_context(parallel_config("hearbench" if backend == "loky" else backend))
        yield workers if backend == "loky" else -1


class _Processes(LokyBackend):
    """joblib's own processes, prepared for our jobs, and also for a single worker.

    By itself joblib would run a single worker's jobs in the calling process; but a job redirects
    the output of its process.
    """

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        """Start the executor; called by joblib."""
        self._workers = get_memmapping_executor(
            n_jobs,
            timeout=IDLE_TIMEOUT,
            env=ONE_THREAD,
            initializer=_prepare_worker,
            initargs=(os.getpid(),),
            context_id=parallel._id,
        )
        self.parallel = parallel
        return max(2, n_jobs)  # for 1, joblib would not use the worker


def _prepare_worker(parent: int) -> None:
    # Lightning takes Ctrl-C as "stop training here" and heareval would then score the
    # half-trained probe: only the parent may be interrupted, and it kills the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def die_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_EVERY)
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()


@contextmanager
def _dask(workers: int) -> Iterator[None]:
    import dask
    from distributed import Client

    elsewhere = dask.config.get("scheduler-address", None)
    with Client(**({} if elsewhere else {"n_workers": workers, "threads_per_worker": 1})) as client:
        if (most := max(client.nthreads().values(), default=1)) > 1:
            raise SweepError(
                f"a Dask worker at {elsewhere} has {most} threads, which would run jobs in one "
                "process: start each worker with `dask worker --nthreads 1`"
            )
        yield


@contextmanager
def _ray(workers: int) -> Iterator[None]:
    import ray
    from ray.util.joblib import register_ray

    elsewhere = os.environ.get("RAY_ADDRESS")
    ray.init(log_to_driver=False, **({} if elsewhere else {"num_cpus": workers}))
    register_ray()
    try:
        yield
    finally:
        ray.shutdown()
