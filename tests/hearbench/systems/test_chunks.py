"""Batches of chunks in threads, each of which computes alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from hearbench.systems.parts.chunks import in_batches
from tests.helpers.threads import another_thread_sets, torch_threads


def number_in_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_batches_leave_the_number_of_threads() -> None:
    """Also that of threads that start meanwhile."""
    seen: list[tuple[int, int]] = []

    def doubled(part: Tensor) -> Tensor:
        torch.ones(100_000).sum()  # shared, if it may be
        seen.append((torch.get_num_threads(), number_in_a_new_thread()))
        return 2 * part

    items = torch.arange(12.0).reshape(2, 6)
    with torch_threads(3):
        assert torch.equal(in_batches(doubled, items, 2), 2 * items)
        assert seen == [(1, 3)] * 6
        assert torch.get_num_threads() == number_in_a_new_thread() == 3


def test_batches_are_single_threaded_although_another_thread_sets_the_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    another_thread_sets(2, monkeypatch)
    seen: list[int] = []
    with torch_threads(3):
        in_batches(lambda part: seen.append(torch.get_num_threads()) or part, torch.zeros(2, 6), 2)
    assert seen == [1] * 6


def test_an_error_in_a_batch_is_raised() -> None:
    def fail(part: Tensor) -> Tensor:
        raise ArithmeticError

    with torch_threads(3):
        with pytest.raises(ArithmeticError):
            in_batches(fail, torch.zeros(2, 6), 2)
        assert torch.get_num_threads() == number_in_a_new_thread() == 3
