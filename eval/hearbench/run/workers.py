"""Worker processes on this machine or on a cluster; one failed job never stops the rest.

Each worker computes one job at a time. Jobs write to a file system that all workers see, and leave
nothing half-finished that looks finished: a worker may be killed at any moment.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from joblib.externals.loky import ProcessPoolExecutor
from tqdm import tqdm

Backend = Literal["loky", "dask", "ray"]

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
LOOK_EVERY = 1.0  # seconds, at progress and at whether the parent lives


class SweepError(RuntimeError):
    """The workers themselves broke down."""


@dataclass(frozen=True)
class Job:
    """One call of a function that writes into folders of its own."""

    name: str
    folders: tuple[Path, ...]
    log: Path
    step: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Failure:
    """A job that raised."""

    name: str
    error: str
    log: Path


Submit = Callable[[Callable[[Job], Failure | None], Job], "Future[Failure | None]"]
"""Has a worker call the function with the job."""


@contextmanager
def workers(backend: Backend, jobs: int) -> Iterator[Submit]:
    """Warm worker processes; killed if the block is left by an exception or Ctrl-C.

    Args:
        backend: `loky` for this machine. `dask` and `ray` connect to the cluster that their own
            settings name (DASK_SCHEDULER_ADDRESS, RAY_ADDRESS), or else start one here.
        jobs: how many, one thread each; a cluster that is there has its own number.

    Raises:
        SweepError: if the backend isn't installed.
    """
    module, start = {
        "loky": ("joblib", _loky),
        "dask": ("distributed", _dask),
        "ray": ("ray", _ray),
    }[backend]
    try:
        import_module(module)
    except ImportError as error:
        raise SweepError(
            f"--backend {backend}: {error}; install it in this project's folder, on every machine: "
            f"pip install -e '.[{backend}]'"
        ) from error
    with start(jobs) as submit:
        yield submit


def run(
    submit: Submit, jobs: Sequence[Job], bar: tqdm[Any], done: Callable[[], float]
) -> list[Failure]:
    """Run `jobs` and give those that failed.

    Args:
        submit: from `workers`.
        jobs: the long ones first.
        bar: shows the progress; closed at the end.
        done: how much of the bar's total is done by now, as the jobs' files tell.

    Raises:
        SweepError: if a worker process was killed. What is finished stays.
    """
    failures = []
    with bar, _followed(bar, done):
        futures = {submit(attempt, job): job for job in jobs}
        for future in as_completed(futures):
            job = futures[future]
            try:
                failure = future.result()
            except Exception as error:  # of the backend: `attempt` passes on none
                raise SweepError(
                    f"a worker broke down, perhaps killed for memory, near {job.name!r} "
                    f"({type(error).__name__}): run the same command with fewer --jobs; what is "
                    "finished stays"
                ) from error
            if failure is not None:
                bar.write(f"failed: {failure.name}: {failure.error}")
                failures.append(failure)
    return failures


def attempt(job: Job) -> Failure | None:
    """Run one job in a worker; an error goes to the job's log and comes back as a `Failure`."""
    import torch

    torch.set_num_threads(1)  # more are slower for fits this small, and change the results
    try:
        with ExitStack() as stack:
            for folder in job.folders:
                folder.parent.mkdir(parents=True, exist_ok=True)
                # A cluster may still be at work on it for a sweep that was killed.
                stack.enter_context(FileLock(folder.parent / f".{folder.name}.lock"))
            job.step(*job.arguments)
    except (Exception, SystemExit) as error:  # whatever heareval or a HEAR module may raise
        with suppress(OSError):  # the disk may be full
            job.log.parent.mkdir(parents=True, exist_ok=True)
            with job.log.open("a") as file:
                file.write(traceback.format_exc())
        return Failure(job.name, f"{type(error).__name__}: {error}", job.log)
    return None


@contextmanager
def _followed(bar: tqdm[Any], done: Callable[[], float]) -> Iterator[None]:
    """Keep `bar` at what `done` tells, also while all jobs are long."""
    stop = threading.Event()

    def look() -> None:
        if (more := done() - bar.n) > 0:
            bar.update(more)

    def follow() -> None:
        while not stop.wait(LOOK_EVERY):
            look()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        look()


@contextmanager
def _loky(jobs: int) -> Iterator[Submit]:
    executor = ProcessPoolExecutor(
        jobs, env=ONE_THREAD, initializer=_prepare_worker, initargs=(os.getpid(),)
    )
    try:
        yield executor.submit
    except BaseException:
        executor.shutdown(kill_workers=True)
        raise
    executor.shutdown()


def _prepare_worker(parent: int) -> None:
    # Lightning takes Ctrl-C as "stop training here" and heareval would go on to score the
    # half-trained probe: only the parent may be interrupted, and it kills the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def die_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_EVERY)
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()


@contextmanager
def _dask(jobs: int) -> Iterator[Submit]:
    import dask
    from distributed import Client

    elsewhere = dask.config.get("scheduler-address", None)
    with Client(**({} if elsewhere else {"n_workers": jobs, "threads_per_worker": 1})) as client:
        yield client.get_executor(pure=False).submit


@contextmanager
def _ray(jobs: int) -> Iterator[Submit]:
    import ray

    elsewhere = os.environ.get("RAY_ADDRESS")
    ray.init(log_to_driver=False, **({} if elsewhere else {"num_cpus": jobs}))
    threads = ThreadPoolExecutor(int(ray.cluster_resources()["CPU"]))  # each waits for a worker
    try:
        yield lambda step, job: threads.submit(lambda: ray.get(ray.remote(step).remote(job)))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        ray.shutdown()
