"""Fastest data type on this machine, and reuse of freed memory."""

from __future__ import annotations

import ctypes
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context

import torch

from hearbench.probes.runs import ProductType

GAIN = 1.25  # minimum speedup at which bfloat16 is chosen

# glibc's mallopt: keep up to 2 GB of freed memory, take blocks of up to 1 GB from it
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def fastest_precision() -> ProductType:
    """The fastest type of products for training on this machine.

    A fresh process measures it with one thread, as probes are trained.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_fastest_precision).result()


def _fastest_precision() -> ProductType:
    torch.set_num_threads(1)
    return "bfloat16" if _has_fast_bfloat16(default_device()) else "float32"


def default_device() -> torch.device:
    """A GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # older ones emulate it
    return device.type == "cpu" and _has_fast_cpu()


@cache
def _has_fast_cpu() -> bool:
    instructions = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if not instructions:
        return False  # emulated, and very slow
    # Intel's processors with AVX-512 BF16 but without AMX are slower with it than with float32.
    seconds = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
    for _ in range(5):
        for dtype in seconds:
            x = torch.ones(512, 512, dtype=dtype, device="cpu")
            start = time.perf_counter()
            x @ x
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - start)
    return seconds[torch.float32] > GAIN * seconds[torch.bfloat16]


def keep_freed_memory() -> None:
    """Make glibc reuse large blocks instead of returning them to the system after every operation.

    This makes training steps on a CPU faster. Without glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
