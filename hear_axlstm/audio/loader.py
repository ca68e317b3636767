"""Make the next batch while the device works on this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Batch = TypeVar("Batch")


def prefetch(make: Callable[[int], Batch], first: int, end: int) -> Iterator[Batch]:
    """Yield ``make(step)`` for the steps `first` <= step < `end`, each made one ahead in a thread.

    An error in `make` is raised where its batch would have come.
    """
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(make, first)
        for step in range(first + 1, end):
            batch, upcoming = upcoming.result(), pool.submit(make, step)
            yield batch
        yield upcoming.result()
