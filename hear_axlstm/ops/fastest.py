"""Measures which of two ways to multiply matrices is faster on this processor.

The instruction set alone does not decide: AVX-512 BF16 is twice as fast as float32 on AMD
processors, but slower than float32 on Intel processors without AMX.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

SIZE = 512  # of the matrices
ROUNDS = 8
GAIN = 1.25  # required speedup, so that noise does not decide between similar ones

Work = Callable[[], object]


def square(dtype: torch.dtype) -> Tensor:
    """A matrix to multiply with itself."""
    return torch.ones(SIZE, SIZE, dtype=dtype, device="cpu")


@torch.no_grad()
def is_faster(other: Work, usual: Work) -> bool:
    """Whether `other` takes clearly less time than `usual`; both run in turn, without autocast."""
    fastest = {other: float("inf"), usual: float("inf")}
    with torch.autocast("cpu", enabled=False):
        for _ in range(ROUNDS):
            for work in (other, usual):
                start = time.thread_time()  # other threads and processes may take the cores
                work()
                fastest[work] = min(fastest[work], time.thread_time() - start)
    return fastest[usual] > GAIN * fastest[other]
