"""Where a run computes: device, precision, and how many clips at once."""

from __future__ import annotations

import ctypes
import sys

import torch

from hear_axlstm.pretrain.config import PretrainConfig

CPU_MICRO_BATCH = 4  # keeps the cell's N x N matrices near the cache

# glibc's mallopt: keep up to 2 GB of freed memory, take blocks of up to 1 GB from it
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        ValueError: if this machine doesn't have it.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={name!r} can't be used ({reason}): try 'auto'") from error
    return device


def choose_precision(config: PretrainConfig, device: torch.device) -> torch.dtype:
    """The type of the forward pass; "auto" takes bfloat16 where the hardware multiplies in it."""
    if config.precision == "auto":
        return torch.bfloat16 if _has_fast_bfloat16(device) else torch.float32
    return torch.bfloat16 if config.precision == "bfloat16" else torch.float32


def choose_micro_batch(config: PretrainConfig, device: torch.device) -> int:
    """Clips at once: as asked, else few on a CPU and the whole batch on an accelerator."""
    if config.micro_batch is not None:
        return min(config.micro_batch, config.batch_size)
    return min(CPU_MICRO_BATCH, config.batch_size) if device.type == "cpu" else config.batch_size


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of returning them to the system after every operation.

    On a CPU a training step is several times faster for it. Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # older ones emulate it
    return device.type == "cpu" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
