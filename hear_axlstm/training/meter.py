"""Speed and memory of a run, for its log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from hear_axlstm.training.device import peak_flops
from hear_axlstm.training.distributed import DistContext

T = TypeVar("T")


class Meter:
    """Measures speed and memory between log lines.

    Args:
        flops: FLOPs of one clip's forward and backward pass; None leaves MFU out.
        context: the ranks of the run; memory is that of rank 0.
    """

    def __init__(self, flops: int | None, context: DistContext) -> None:
        self.device = context.device
        peak = peak_flops(context.device)
        self._mfu_per_rate = flops / (peak * context.size) if flops and peak else None
        self._start()

    def _start(self) -> None:
        self._began, self._waited = time.monotonic(), 0.0

    def next(self, batches: Iterator[T]) -> T:
        """Return the next batch; the time until it is available counts as waiting."""
        before = time.monotonic()
        batch = next(batches)
        self._waited += time.monotonic() - before
        return batch

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time spent inside out, e.g. that of an evaluation."""
        if self.device.type == "cuda":  # which has not finished the steps yet
            torch.cuda.synchronize(self.device)
        before = time.monotonic()
        yield
        self._began += time.monotonic() - before

    def take(self, clips: int) -> dict[str, float]:
        """Return speed and memory since the last call, in which all ranks processed `clips`.

        Call it once the device has finished them. `data_wait` is the share of the time spent
        waiting for data; `memory_gb` the peak use so far, of the device or, on a CPU, of the
        process; `mfu`, on known GPUs, the model's FLOPs as a share of their bfloat16 peak.
        """
        seconds = time.monotonic() - self._began
        rate = clips / seconds
        values = {
            "samples_per_second": rate,
            "data_wait": self._waited / seconds,
        }
        if (memory := peak_memory(self.device)) is not None:
            values["memory_gb"] = memory / 1e9
        if self._mfu_per_rate is not None:
            values["mfu"] = rate * self._mfu_per_rate
        self._start()
        return values


def peak_memory(device: torch.device) -> int | None:
    """Peak memory in bytes: of this process on a GPU, else its resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ModuleNotFoundError:  # on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
