"""Interleaved timing, so that other load on the machine affects all candidates equally."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from hear_axlstm.ops.backends import backend
from hear_axlstm.ops.matmul import matmul
from hearbench.machine import processor

Work = Callable[[], object]


def in_turns(
    works: Mapping[str, Work],
    rounds: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each function over interleaved rounds, after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            times[name].append(once(work, device, clock))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def once(work: Work, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call."""
    start = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def often(work: Work, times: int) -> Work:
    """Several calls as one, for work of less than a millisecond."""
    return lambda: [work() for _ in range(times)]


def machine(device: torch.device) -> str:
    """Name of the processor or GPU, and torch's version."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        compiled = "with" if backend("cpu") == "cpu" else "without"
        name = f"{processor()}, {torch.get_num_threads()} threads, {compiled} the compiled block"
    return f"{name}, torch {torch.__version__}"


def product_rate(dtype: torch.dtype, device: torch.device, by_torch: bool = False) -> float:
    """FLOP/s of 1024 x 1024 products, used as the peak for shares."""
    a, b = (torch.randn(1024, 1024, device=device).to(dtype) for _ in range(2))
    form = torch.matmul if by_torch else matmul
    seconds = min(in_turns({"": lambda: form(a, b)}, 20, device).values())
    return 2 * 1024**3 / seconds
