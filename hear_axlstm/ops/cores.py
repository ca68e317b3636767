"""Parallel execution of independent work on the cores of a CPU.

For the small tensors of a few windows, threads that each do independent work are faster than
threads that share every operation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_starting = Lock()


def _renew_lock() -> None:
    global _starting
    _starting = Lock()


if hasattr(os, "register_at_fork"):  # a fork while workers start would copy a lock that is held
    os.register_at_fork(after_in_child=_renew_lock)


def thread_count() -> int:
    """Number of threads that torch may use, also while another thread starts its workers."""
    with _starting:
        return torch.get_num_threads()


def on_each_core(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Map items with as many threads as torch may use, each single-threaded itself."""
    threads = thread_count()
    if threads == 1 or len(items) == 1:
        return [work(item) for item in items]
    return _in_single_threads(work, items, min(threads, len(items)))


def on_one_core(work: Callable[[], R]) -> R:
    """Call `work` with torch limited to one thread, whatever the caller's setting.

    Operations too small to share lose more time to waiting for other threads than they gain.
    """
    if thread_count() == 1:
        return work()
    return _in_single_threads(lambda _: work(), [None], 1)[0]


def _in_single_threads(work: Callable[[T], R], items: Sequence[T], workers: int) -> list[R]:
    # The number set in a thread applies to it alone, but later threads inherit it: it is restored
    # once all have started, and callers take turns until then.
    threads = thread_count()
    started = Barrier(workers + 1)

    def compute_alone() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # the first query fixes the number for this thread
        started.wait()

    with ThreadPoolExecutor(workers, initializer=compute_alone) as pool:
        with _starting:
            try:
                results = pool.map(work, items)
                started.wait()
            except BaseException:
                started.abort()  # otherwise waiting threads would wait forever
                raise
            finally:
                torch.set_num_threads(threads)
        return list(results)
