"""What an mLSTM block computes between its matrix products, by compiled C++ (`block.cpp`).

Optional: `pip install` compiles it where there is a C++ compiler. Calls let other threads run.

Shapes: B windows, S tokens, H heads, J blocks of a head in the maps, K = 4 J head size, E = H K,
N = B H heads of all windows, R query rows from one on.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

VERSION = 1  # of block.cpp
SWITCH = "HEAR_AXLSTM_NATIVE"  # 0 in the environment: compute by PyTorch alone


@cache
def library() -> ctypes.CDLL | None:
    """The compiled code, or None where there is none or it is switched off."""
    spec = importlib.util.find_spec("hear_axlstm.native._block")
    if spec is None or spec.origin is None or os.environ.get(SWITCH) == "0":
        return None
    compiled = ctypes.CDLL(spec.origin)
    compiled.block_version.restype = ctypes.c_int64
    if compiled.block_version() != VERSION:
        log.warning(
            "%s was built from another block.cpp: install again, it is not used", spec.origin
        )
        return None
    return compiled


@dataclass(frozen=True)
class CellInput:
    """What the cell reads, and what is left to do to its result."""

    c: Tensor
    """SiLU of the convolution, which is also the query, ``[N, S, K]``."""
    k: Tensor
    """Keys, likewise."""
    v: Tensor
    """Values, likewise."""
    a: Tensor
    """log i - F, float64 ``[N, S]``."""
    running_max: Tensor
    """Of `a` along S, likewise."""
    floor: Tensor
    """sqrt(K) exp(-m), the least normalizer, float32 ``[N, S]``."""


def before_cell(xz_BSE: Tensor, heads: int, sigmoid: bool, weights: Sequence[Tensor]) -> CellInput:
    """Convolution, block-diagonal maps and gates.

    Args:
        xz_BSE: up-projection ``[B, S, 2 E]``: x by place, ``[4, H, J]``, and z.
        heads: H.
        sigmoid: whether the input gate is a sigmoid.
        weights: float32, channels of x by place: convolution ``[4, E]``, its bias ``[E]``, maps to
            keys and values ``[in 4, out 4, H J]``, gates on c and x ``[2 H, E]``, bias ``[2 H]``.
    """
    batch, tokens, double = xz_BSE.shape
    size = double // 2 // heads
    c, k, v = (xz_BSE.new_empty(batch * heads, tokens, size) for _ in "ckv")
    a, running_max = (torch.empty(batch * heads, tokens, dtype=torch.float64) for _ in "am")
    floor = torch.empty(batch * heads, tokens)
    pointers = (ctypes.c_void_p * len(weights))(*(w.data_ptr() for w in weights))
    _call(
        *("before_cell", xz_BSE, batch, tokens, heads, size // 4, int(sigmoid), pointers),
        *(c, k, v, a, running_max, floor),
    )
    return CellInput(c, k, v, a, running_max, floor)


def weigh(scores_NRS: Tensor, first: int, cell_input: CellInput) -> Tensor:
    """Multiply scores q . k in place by exp(a_s - M_t) for s <= t, else 0; gives their sums.

    Args:
        scores_NRS: of the query rows from `first` on and all keys up to the last of these.
        first: number of the first row.
        cell_input: its a and running maximum.

    Returns:
        float32 ``[N, R]``.
    """
    count, rows, seen = scores_NRS.shape
    sums = torch.empty(count, rows)
    tokens = cell_input.a.shape[1]
    _call(
        *("weigh", scores_NRS, count, rows, seen, first, tokens),
        *(cell_input.a, cell_input.running_max, sums),
    )
    return sums


def after_cell(
    u_NRK: Tensor,
    sums_NR: Tensor,
    first: int,
    cell_input: CellInput,
    xz_BSE: Tensor,
    norm_and_skip: tuple[Tensor, Tensor],
    eps: tuple[float, float],
    out_BSE: Tensor,
) -> None:
    """Normalizer, head norm, skip of c and gate SiLU(z) of some rows, written to `out_BSE`.

    Args:
        u_NRK: weighted sums of values of the rows from `first` on.
        sums_NR: what `weigh` gave.
        first: number of the first row.
        cell_input: its c and floor.
        xz_BSE: its z, channels by head.
        norm_and_skip: scale of the norm and weight of c, float32 ``[H K]``.
        eps: added to the normalizer, and to the variance of the norm.
        out_BSE: receives the rows.
    """
    batch, tokens, inner = out_BSE.shape
    rows, size = u_NRK.shape[1:]
    heads = inner // size
    _call(
        *("after_cell", u_NRK, sums_NR, cell_input.floor, cell_input.c, xz_BSE, *norm_and_skip),
        *(batch, tokens, heads, size // 4, rows, first, *eps, out_BSE),
    )


def _call(name: str, tensor: Tensor, *arguments: Any) -> None:
    """Call the function for the dtype of the first tensor, all tensors being dense."""
    suffix = {torch.float32: "float32", torch.bfloat16: "bfloat16"}[tensor.dtype]
    function = getattr(library(), f"{name}_{suffix}")
    function(*(_as_c(argument) for argument in (tensor, *arguments)))


def _as_c(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        assert argument.is_contiguous()
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    return ctypes.c_float(argument) if isinstance(argument, float) else argument
