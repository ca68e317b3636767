"""Independent work on each core of a CPU.

For tensors as small as those of a few windows, threads that each do work of their own are faster
than threads that share every operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def on_each_core(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Map items by as many threads as torch may use, each computing alone."""
    threads = torch.get_num_threads()
    if threads == 1 or len(items) == 1:
        return [work(item) for item in items]
    # The number set in a thread counts for it alone, but is also what later threads start with.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            return list(pool.map(work, items))
        finally:
            torch.set_num_threads(threads)
