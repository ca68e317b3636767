"""Worker threads in which torch computes single-threaded.

torch's number of threads applies to the thread that sets it, but later threads inherit the number
that was set last anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, Lock

import torch

_starting = Lock()


def thread_count() -> int:
    """Number of threads that torch may use here, also while another thread starts its workers."""
    with _starting:
        return torch.get_num_threads()


@contextmanager
def single_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Start `count` such threads; the number that others inherit is restored before any work."""
    started = Barrier(count + 1)

    def compute_alone() -> None:
        torch.get_num_threads()  # the first query sets the number to the last one anywhere
        torch.set_num_threads(1)
        started.wait()

    with ThreadPoolExecutor(count, initializer=compute_alone) as pool:
        with _starting:
            threads = torch.get_num_threads()
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
