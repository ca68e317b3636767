"""Where a run computes: device, precision, and how many clips at once."""

from __future__ import annotations

import torch

from hear_axlstm.pretrain.config import PretrainConfig

CPU_MICRO_BATCH = 16  # keeps the cell's N x N matrices near the cache


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


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # older ones emulate it
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()
