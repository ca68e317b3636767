"""Parallel execution of independent work on the cores of a CPU.

For the small tensors of a few windows, threads that each do independent work are faster than
threads that share every operation. Also, torch's threads (OpenMP) do not sleep for milliseconds
after an operation that they have shared, and would take the cores from these.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager
from threading import Barrier, Lock, Thread
from typing import TypeVar

import torch

from hear_axlstm.ahead import Threads

T = TypeVar("T")
R = TypeVar("R")


class _Sharing(threading.local):
    """Thread-local settings of work inside `without_torch_threads`, which shares cores itself."""

    threads = 0
    """Number of threads that it may use; 0 in other threads."""
    stop: threading.Event | None = None
    """Set if the caller was interrupted."""


_sharing = _Sharing()
_starting, _idle = Lock(), list[Threads]()  # pools of one thread each


def _after_fork() -> None:
    """Forget the parent's threads, and a lock that one of them may have held.

    The threads that the parent's torch operations shared do not exist in the child, which would
    wait for them forever: torch is single-threaded in it.
    """
    global _starting
    _starting = Lock()
    _idle.clear()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def thread_count() -> int:
    """Number of threads that work may be shared by, also while another thread starts its own."""
    if _sharing.threads:
        return _sharing.threads
    with _starting:
        return torch.get_num_threads()


def on_each_core(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Map items in as many threads as torch may use; in each, torch is single-threaded."""
    threads = min(thread_count(), len(items))
    if threads <= 1:
        return [work(item) for item in items]
    stop = _sharing.stop or threading.Event()
    results: dict[int, R] = {}
    todo = iter(range(len(items)))

    def take() -> None:
        with torch.set_grad_enabled(gradients):
            for index in todo:
                if stop.is_set():
                    raise CancelledError
                results[index] = work(items[index])

    gradients = torch.is_grad_enabled()
    with _borrowed(threads) as workers:
        _run(workers, take, stop)
    return [results[index] for index in range(len(items))]


def without_torch_threads(work: Callable[[], R], threads: int | None = None) -> R:
    """Call `work` in a thread in which torch's operations are not shared by other threads.

    Args:
        work: may still use the cores, by `on_each_core` and `thread_count`.
        threads: number of threads that it may use; by default as many as torch may.
    """
    available = thread_count()
    if available == 1 or _sharing.threads:
        return work()
    stop, gradients = threading.Event(), torch.is_grad_enabled()

    def run() -> R:
        _sharing.threads, _sharing.stop = threads or available, stop
        try:
            with torch.set_grad_enabled(gradients):
                return work()
        finally:
            _sharing.threads, _sharing.stop = 0, None

    with _borrowed(1) as (worker,):
        return _run([worker], run, stop)[0]


def _run(workers: Sequence[Threads], work: Callable[[], R], stop: threading.Event) -> list[R]:
    """Run `work` in each worker; after an error, or an interruption such as Ctrl-C, set `stop`."""
    futures: list[Future[R]] = []
    try:
        for worker in workers:
            futures.append(worker.submit(work))
        return [future.result() for future in futures]
    except BaseException:
        stop.set()
        wait(futures)
        raise


@contextmanager
def _borrowed(count: int) -> Iterator[list[Threads]]:
    """Idle workers, or new ones, for one caller."""
    with _starting:
        workers = [_idle.pop() for _ in range(min(count, len(_idle)))]
        workers += _start(count - len(workers))
    try:
        yield workers
    finally:
        with _starting:
            _idle.extend(workers)


def _start(count: int) -> list[Threads]:
    """Start workers, from a thread of their own."""
    workers = [Threads(1) for _ in range(count)]
    errors: list[BaseException] = []

    def start() -> None:
        # The number set in a thread applies to it, and to all threads that are new after that:
        # theirs is restored once all workers have started, and callers take turns until then.
        inherited, started = torch.get_num_threads(), Barrier(count + 1)
        try:
            for worker in workers:
                worker.submit(_begin, started)
            started.wait()
        except BaseException as error:
            started.abort()  # otherwise waiting threads would wait forever
            for worker in workers:
                worker.shutdown()
            errors.append(error)
        finally:
            torch.set_num_threads(inherited)

    if count:
        starter = Thread(target=start, daemon=True)  # its own number may differ from the caller's
        starter.start()
        starter.join()
    if errors:
        raise errors[0]
    return workers


def _begin(started: Barrier) -> None:
    """Make torch single-threaded in this thread, and wait for the others."""
    torch.get_num_threads()  # the first query sets this thread's number to the last one anywhere
    torch.set_num_threads(1)
    started.wait()
