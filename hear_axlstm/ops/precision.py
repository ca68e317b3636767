"""Data type of the large matrix products."""

from __future__ import annotations

from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor

from hear_axlstm.ops.fastest import is_faster, square
from hear_axlstm.ops.matmul import matmul

Precision = Literal["auto", "float32", "bfloat16"]


def product_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the dtype of a name; "auto" is bfloat16 where its matrix products are faster.

    Raises:
        ValueError: for an unknown name.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision={precision!r}: use one of {', '.join(get_args(Precision))}")
    if precision == "auto":
        return torch.bfloat16 if _has_fast_bfloat16(device) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # older ones emulate it
    return device.type == "cpu" and _has_fast_cpu()


@cache
def _has_fast_cpu() -> bool:
    instructions = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if not instructions:
        return False  # emulated, and very slow
    lower, single = square(torch.bfloat16), square(torch.float32)
    return is_faster(lambda: matmul(lower, lower), lambda: matmul(single, single))


def autocast_to(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """Autocast for a forward pass with products in `dtype`, overriding the caller's autocast."""
    lower = dtype != torch.float32
    return torch.autocast(device.type, dtype if lower else None, enabled=lower)


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Dtype of matrix products with a tensor on a CPU, taking autocast into account."""
    autocast = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64
    return torch.get_autocast_dtype("cpu") if autocast else x.dtype
