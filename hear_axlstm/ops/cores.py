"""Parallel execution of independent work on the cores of a CPU.

For the small tensors of a few windows, threads that each do independent work are faster than
threads that share every operation. Also, torch's threads (OpenMP) do not sleep for milliseconds
after an operation that they have shared, and would take the cores from these.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, Lock
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_starting = Lock()


class _Conducted(threading.local):
    """Set in a thread that `on_one_core` started: threads that it may use, and their number."""

    pool: ThreadPoolExecutor | None = None
    threads = 1


_conducted = _Conducted()


def _renew_lock() -> None:
    global _starting
    _starting = Lock()


if hasattr(os, "register_at_fork"):  # a fork while workers start would copy a lock that is held
    os.register_at_fork(after_in_child=_renew_lock)


def thread_count() -> int:
    """Number of threads that work may be shared by, also while another thread starts its own."""
    if _conducted.pool:
        return _conducted.threads
    with _starting:
        return torch.get_num_threads()


def on_each_core(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Map items with as many threads as torch may use, each single-threaded itself."""
    threads = thread_count()
    if threads == 1 or len(items) == 1:
        return [work(item) for item in items]
    alone = _as_here(work)
    if _conducted.pool:
        return list(_conducted.pool.map(alone, items))
    with _single_threads(min(threads, len(items))) as pool:
        return list(pool.map(alone, items))


def on_one_core(work: Callable[[], R]) -> R:
    """Call `work` in a thread in which torch's operations are not shared by other threads.

    `work` may still use the cores by `on_each_core` and `thread_count`.
    """
    threads = thread_count()
    if threads == 1 or _conducted.pool:
        return work()
    with _single_threads(threads + 1) as pool:

        def conduct(_: None) -> R:
            _conducted.pool, _conducted.threads = pool, threads
            try:
                return work()
            finally:
                _conducted.pool = None

        return pool.submit(_as_here(conduct), None).result()


def _as_here(work: Callable[[T], R]) -> Callable[[T], R]:
    """Carry the gradient mode of this thread over to others."""
    gradients = torch.is_grad_enabled()

    def call(item: T) -> R:
        with torch.set_grad_enabled(gradients):
            return work(item)

    return call


@contextmanager
def _single_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Start threads in which torch computes with one thread; drop waiting work after an error."""
    # The number set in a thread applies to it alone, but later threads inherit it: it is restored
    # once all have started, and callers take turns until then.
    threads = thread_count()
    started = Barrier(count + 1)

    def compute_alone() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # the first query fixes the number for this thread
        started.wait()

    with ThreadPoolExecutor(count, initializer=compute_alone) as pool:
        try:
            with _starting:
                try:
                    for _ in range(count):
                        pool.submit(int)
                    started.wait()
                except BaseException:
                    started.abort()  # otherwise waiting threads would wait forever
                    raise
                finally:
                    torch.set_num_threads(threads)
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
