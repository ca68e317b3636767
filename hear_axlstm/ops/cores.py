"""Independent work on each core of a CPU.

For tensors as small as those of a few windows, threads that each do work of their own are faster
than threads that share every operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def on_each_core(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Map items by as many threads as torch may use, each computing alone."""
    threads = torch.get_num_threads()
    if threads == 1 or len(items) == 1:
        return [work(item) for item in items]
    # The number set in a thread counts for it alone, but is also what later threads start with:
    # it is put back once all are there.
    workers = min(threads, len(items))
    started = Barrier(workers + 1)

    def compute_alone() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # the first question fixes the number for this thread
        started.wait()

    with ThreadPoolExecutor(workers, initializer=compute_alone) as pool:
        try:
            results = pool.map(work, items)
            started.wait()
        except BaseException:
            started.abort()  # or those that wait would wait forever
            raise
        finally:
            torch.set_num_threads(threads)
        return list(results)
