"""Parallel calls of a function in threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import joblib
from tqdm.contrib.concurrent import thread_map

from hearbench.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], **options: Any
) -> list[Result]:
    """Results of a function that releases the GIL, called in one thread per CPU.

    Args:
        function: called with each item.
        items: the items.
        options: those of the progress bar.
    """
    workers = joblib.cpu_count()
    return thread_map(function, items, max_workers=workers, tqdm_class=Progress, **options)
