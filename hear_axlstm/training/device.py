"""Choice of device and threads, and memory settings of a run."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

# glibc's mallopt: keep up to 2 GB of freed memory, take blocks of up to 1 GB from it, and let all
# threads share it
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

LONGEST_REASON = 160  # characters; torch may list every known backend
PEAK_BFLOAT16 = (
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("4090", 165e12),
    ("3090", 71e12),
)
"""Peak FLOP/s of dense bfloat16 products from the data sheets; the first matching name applies."""


def choose_device(name: str, local_rank: int = 0, local_size: int = 1) -> torch.device:
    """Return the device of a name; "auto" prefers CUDA, then MPS, then the CPU.

    Args:
        name: "auto" or a torch device.
        local_rank: index of this process on this machine; each process uses its own GPU.
        local_size: number of processes of the run on this machine.

    Raises:
        ValueError: if this machine lacks the device, or has fewer GPUs than processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else _without_cuda(local_size)
    if local_size > 1 and name.startswith(("cuda:", "mps")):
        raise ValueError(
            f"device={name!r} is a single device for {local_size} processes: use 'cuda' or 'cpu'"
        )
    if name == "cuda" and torch.cuda.is_available():
        if local_size > torch.cuda.device_count():
            raise ValueError(
                f"{local_size} processes for {torch.cuda.device_count()} GPUs: "
                "start one process per GPU, or set device='cpu'"
            )
        name = f"cuda:{local_rank}" if local_size > 1 else name
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:LONGEST_REASON]
        raise ValueError(f"device={name!r} can't be used ({reason}): try 'auto'") from error
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def choose_threads(threads: int | None, device: torch.device, local_size: int) -> None:
    """Set the number of CPU threads: `threads`, or PyTorch's choice or this process's share."""
    if threads is not None:
        torch.set_num_threads(threads)
    elif device.type == "cpu" and local_size > 1:
        torch.set_num_threads(max(1, _cores() // local_size))


def used_generators(device: torch.device) -> list[torch.device]:
    """GPUs whose random generators work on a device uses, for `torch.random.fork_rng`."""
    return [device] if device.type == "cuda" else []


def keep_freed_memory() -> None:
    """Make glibc reuse large freed blocks instead of returning them to the system.

    A training step on a CPU becomes several times faster. Without glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(_M_ARENA_MAX, 1)


def peak_flops(device: torch.device) -> float | None:
    """Peak bfloat16 FLOP/s of a device; None for a CPU and for devices not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_BFLOAT16 if part in name), None)


def _without_cuda(local_size: int) -> str:
    return "mps" if torch.backends.mps.is_available() and local_size == 1 else "cpu"


def _cores() -> int:
    """Number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1
