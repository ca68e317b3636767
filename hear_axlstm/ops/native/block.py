"""From the up-projection of an mLSTM block to what its down-projection reads, with gradients.

Kept for the backward pass are the up-projection and the cell's sums; all else is computed again.

Shapes: B windows, S tokens, H heads, N = B H, K head size, E = H K, R query rows at once, C keys
that they may see.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hear_axlstm.models import mlstm
from hear_axlstm.ops.fuse import MAP_WIDTH, MixSettings, MixWeights
from hear_axlstm.ops.native import library
from hear_axlstm.ops.native.library import GROUP, call, has_products
from hear_axlstm.ops.native.memory import Memory
from hear_axlstm.ops.onednn import matmul
from hear_axlstm.ops.weighted_sum import row_blocks


class CellInput(NamedTuple):
    """What the cell reads, and its stabilizer."""

    c: Tensor
    """SiLU of the convolution, which is also the query, ``[N, S, K]``."""
    k: Tensor
    v: Tensor
    gates: Tensor
    """Pre-activations, float32 ``[B, S, 2 H]``."""
    a: Tensor
    """log i - F, float64 ``[N, S]``."""
    running_max: Tensor
    """M, of `a` along S, likewise."""
    floor: Tensor
    """The least normalizer, sqrt(K) exp(-m), float32 ``[N, S]``."""


def is_usable(tokens: Tensor, settings: MixSettings) -> bool:
    """Whether `mix` can work where tokens ``[B, S, ...]`` are, and is the best for so many."""
    short = mlstm.fastest_form(tokens.shape[1], settings.head_size) == "parallel"
    return short and library.is_there_for(tokens)


def mix(
    xz_BSE: Tensor, weights: MixWeights, settings: MixSettings, memory: Memory | None = None
) -> Tensor:
    """Convolution, maps, gates, cell in its quadratic form, head norm, skip and output gate.

    Args:
        xz_BSE: the up-projection ``[B, S, 2 E]`` by `folding.fold`, float32 or bfloat16.
        weights: folded; float32 is what is computed with.
        settings: of the block.
        memory: to work in, without gradients, also for the answer.

    Returns:
        ``[B, S, E]`` in the same dtype.
    """
    xz_BSE, parts = xz_BSE.contiguous(), tuple(weight.float() for weight in weights)
    if memory is None:
        return _Mix.apply(xz_BSE, settings, *parts)
    return _forward(xz_BSE, settings, parts, memory)[0]


def _forward(
    xz_BSE: Tensor, settings: MixSettings, weights: tuple[Tensor, ...], memory: Memory
) -> tuple[Tensor, Tensor, Tensor]:
    """The answer, and the cell's sums."""
    sizes, given = before_cell(xz_BSE, settings, weights, memory)
    u_NSK, n_NS = weighted_sums(sizes, given, memory)
    batch, tokens, double = xz_BSE.shape
    out_BSE = memory.empty("out", xz_BSE, batch, tokens, double // 2)
    after = u_NSK, n_NS, given.floor, given.c, xz_BSE, *_eps(settings)
    call("after_cell", sizes, weights, *after, out_BSE)
    return out_BSE, u_NSK, n_NS


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, xz_BSE: Tensor, settings: MixSettings, *weights: Tensor) -> Tensor:
        out_BSE, u_NSK, n_NS = _forward(xz_BSE, settings, weights, Memory())
        ctx.settings = settings
        ctx.save_for_backward(xz_BSE, u_NSK, n_NS, *weights)
        return out_BSE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out_BSE: Tensor) -> tuple[Tensor | None, ...]:
        xz_BSE, u_NSK, n_NS, *weights = ctx.saved_tensors
        d_weights = tuple(torch.zeros_like(weight) for weight in weights)
        sizes, given = before_cell(xz_BSE, ctx.settings, weights, Memory())
        d_xz_BSE, d_u_NSK, d_n_NS = (torch.empty_like(x) for x in (xz_BSE, u_NSK, n_NS))
        d_q, d_k, d_v = (torch.zeros_like(given.c) for _ in "qkv")
        d_a, d_max, d_m = (torch.zeros_like(given.floor) for _ in range(3))
        d_c = torch.empty_like(given.c, dtype=torch.float32)
        after = u_NSK, n_NS, given.floor, given.c, xz_BSE, *_eps(ctx.settings)
        d_after = d_u_NSK, d_n_NS, d_m, d_c, d_xz_BSE, d_weights
        call("after_cell_backward", sizes, weights, *after, d_out_BSE.contiguous(), *d_after)
        for rows, seen in row_blocks(xz_BSE.shape[1]):
            d_u_NRK = d_u_NSK[:, rows]
            scores_NRC = matmul(given.c[:, rows], given.k[:, seen].mT)
            d_scores_NRC = matmul(d_u_NRK, given.v[:, seen].mT)
            block = (*scores_NRC.shape[1:], rows.start)
            call(
                *("weigh_backward", sizes, scores_NRC, d_scores_NRC, d_n_NS[:, rows].contiguous()),
                *(*block, given.a, given.running_max, d_a, d_max),
            )
            d_v[:, seen] += matmul(scores_NRC.mT, d_u_NRK)
            d_q[:, rows] = matmul(d_scores_NRC, given.k[:, seen])
            d_k[:, seen] += matmul(d_scores_NRC.mT, given.c[:, rows])
        call(
            *("before_cell_backward", sizes, weights, xz_BSE, _is_sigmoid(ctx.settings)),
            *(given.gates, given.a, given.running_max, d_c, d_q, d_k, d_v),
            *(d_a, d_max, d_m, d_xz_BSE, d_weights),
        )
        return d_xz_BSE, None, *d_weights


def before_cell(
    xz_BSE: Tensor, settings: MixSettings, weights: tuple[Tensor, ...], memory: Memory
) -> tuple[tuple[int, ...], CellInput]:
    """The struct Sizes, and what comes of the up-projection before the cell."""
    batch, tokens, heads, head_size = *xz_BSE.shape[:2], settings.heads, settings.head_size
    sizes = batch, tokens, heads, head_size // MAP_WIDTH
    shape = batch * heads, tokens
    c, k, v = (memory.empty(name, xz_BSE, *shape, head_size) for name in "ckv")
    a, running_max = (memory.empty(name, xz_BSE, *shape, dtype=torch.float64) for name in "aM")
    floor = memory.empty("floor", xz_BSE, *shape, dtype=torch.float32)
    gates = memory.empty("gates", xz_BSE, batch, tokens, 2 * heads, dtype=torch.float32)
    given = CellInput(c, k, v, gates, a, running_max, floor)
    call("before_cell", sizes, weights, xz_BSE, _is_sigmoid(settings), *given)
    return sizes, given


def weighted_sums(
    sizes: tuple[int, ...], given: CellInput, memory: Memory
) -> tuple[Tensor, Tensor]:
    """The cell's sums u ``[N, S, K]`` and n ``[N, S]``, as in `weighted_sum`."""
    u_NSK = memory.empty("u", given.v, *given.v.shape)
    n_NS = memory.empty("n", given.floor, *given.floor.shape)
    decay = given.a, given.running_max
    if has_products() and u_NSK.shape[-1] % GROUP == 0:
        qkv = given.c, given.k, given.v
        call("sum_up", sizes, *qkv, *decay, torch.get_num_threads(), u_NSK, n_NS)
        return u_NSK, n_NS
    for rows, seen in row_blocks(u_NSK.shape[1]):
        scores_NRC = matmul(given.c[:, rows], given.k[:, seen].mT)
        n_NR = scores_NRC.new_empty(scores_NRC.shape[:2], dtype=torch.float32)
        call("weigh", sizes, scores_NRC, *scores_NRC.shape[1:], rows.start, *decay, n_NR)
        u_NSK[:, rows], n_NS[:, rows] = matmul(scores_NRC, given.v[:, seen]), n_NR
    return u_NSK, n_NS


def _eps(settings: MixSettings) -> tuple[float, float]:
    """Of a normalizer that lacks the 1 / sqrt(K) of the keys, and of the norm."""
    return settings.cell_eps * math.sqrt(settings.head_size), settings.norm_eps


def _is_sigmoid(settings: MixSettings) -> int:
    return int(settings.input_gate == "sigmoid")
