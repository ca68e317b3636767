"""A number of threads of torch for a part of a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest
import torch


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set the number of threads that torch may use; restore it at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def another_thread_sets(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another thread set the number to `count` as soon as a thread has set its own to 1."""

    def set_number(own: int) -> None:
        set_one(own)
        if own == 1:
            other = Thread(target=set_one, args=(count,))
            other.start()
            other.join()

    set_one = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", set_number)
