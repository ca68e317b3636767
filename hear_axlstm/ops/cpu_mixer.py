"""The mixer for CPUs, in compiled C++ (`csrc/`), with gradients.

`pip install` compiles it if there is a C++ compiler. The projections around it are left to
`matmul.py`. For the backward pass, the up-projection and the cell's inputs and sums are stored;
everything else is recomputed.

Shapes: B windows, S tokens, H heads, N = B H, K head size, E = H K.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hear_axlstm.ops import library
from hear_axlstm.ops.contract import (
    EPS,
    MAP_WIDTH,
    NORM_EPS,
    CellGates,
    GateFunction,
    MixerWeights,
)
from hear_axlstm.ops.library import Sizes, call
from hear_axlstm.ops.precision import autocast_dtype
from hear_axlstm.ops.tracing import is_traced
from hear_axlstm.ops.workspace import Workspace


class CellInput(NamedTuple):
    """Inputs of the cell, and its gates."""

    c: Tensor
    """SiLU of the convolution, which is also the query, ``[N, S, K]``."""
    k: Tensor
    v: Tensor
    a: Tensor
    """log i - F, float64 ``[N, S]``."""
    running_max: Tensor
    """Running maximum of `a`, M, float64 ``[N, S]``."""
    floor: Tensor
    """Lower bound of the normalizer, sqrt(K) exp(-m), float32 ``[N, S]``."""


class Pass(NamedTuple):
    """Arguments shared by all functions of a forward or backward pass."""

    sizes: Sizes
    weights: tuple[Tensor, ...]
    gates: GateFunction
    workspace: Workspace

    @property
    def epsilons(self) -> tuple[float, float]:
        """The cell's for scores without the keys' factor 1 / sqrt(K), and the norm's."""
        return EPS * math.sqrt(self.sizes.head_size), NORM_EPS


def is_usable(x: Tensor) -> bool:
    """Whether the compiled code supports tensors like this one."""
    is_here = x.device.type == "cpu" and not is_traced(x) and library.is_available()
    return is_here and autocast_dtype(x) in library.SUFFIXES


def mixer(
    xz_BSE: Tensor,
    weights: MixerWeights,
    heads: int,
    gates: GateFunction,
    workspace: Workspace | None = None,
) -> Tensor:
    """Compute a block between its projections; see `hear_axlstm.ops.contract.Mixer`."""
    xz_BSE, tensors = xz_BSE.contiguous(), tuple(weight.float() for weight in weights)
    batch, tokens, double = map(int, xz_BSE.shape)
    sizes = Sizes(batch, tokens, heads, double // 2 // heads // MAP_WIDTH)
    check_shapes(double, tensors, heads)
    if workspace is None:
        return _Mixer.apply(xz_BSE, sizes, gates, *tensors)
    args = Pass(sizes, tensors, gates, workspace)
    return _after_cell(xz_BSE, args, before_cell(xz_BSE, args)[0])[0]


def check_shapes(double: int, weights: tuple[Tensor, ...], heads: int) -> None:
    """Raise ValueError if fused weights don't fit the width of the up-projection, 2 E."""
    inner = double // 2
    maps, gate, norm = (MAP_WIDTH, MAP_WIDTH, inner // MAP_WIDTH), (2 * heads, inner), (heads, -1)
    wanted = (4, inner), (inner,), maps, maps, gate, gate, (2 * heads,), norm, norm
    for name, weight, shape in zip(MixerWeights._fields, weights, wanted, strict=True):
        shape = tuple(inner // heads if size == -1 else size for size in shape)
        if tuple(weight.shape) != shape or inner % (heads * MAP_WIDTH):
            raise ValueError(f"{name} has shape {tuple(weight.shape)} instead of {shape}")


def _after_cell(xz_BSE: Tensor, args: Pass, given: CellInput) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the result and the cell's sums."""
    u_NSK, n_NS = weighted_sum(args.sizes, given, args.workspace)
    batch, tokens, double = xz_BSE.shape
    out_BSE = args.workspace.empty("out", batch, tokens, double // 2, like=xz_BSE)
    after = u_NSK, n_NS, given.floor, given.c, xz_BSE, *args.epsilons
    call("after_cell", args.sizes, args.weights, *after, out_BSE)
    return out_BSE, u_NSK, n_NS


class _Mixer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        xz_BSE: Tensor,
        sizes: Sizes,
        gates: GateFunction,
        *weights: Tensor,
    ) -> Tensor:
        args = Pass(sizes, weights, gates, Workspace())
        given, raw_BSG = before_cell(xz_BSE, args)
        out_BSE, *sums = _after_cell(xz_BSE, args, given)
        ctx.sizes, ctx.gates = sizes, gates
        ctx.save_for_backward(xz_BSE, *given[:3], raw_BSG, *sums, *weights)
        return out_BSE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out_BSE: Tensor) -> tuple[Tensor | None, ...]:
        xz_BSE, c, k, v, raw_BSG, u_NSK, n_NS, *weights = ctx.saved_tensors
        args = Pass(ctx.sizes, tuple(weights), ctx.gates, Workspace())
        with torch.enable_grad():
            raw_BSG = raw_BSG.detach().requires_grad_()
            gates = _gates_by_head(args.gates(raw_BSG), args.sizes.head_size)
        given = CellInput(c, k, v, *(x.detach() for x in gates))
        d_weights = tuple(torch.zeros_like(weight) for weight in weights)
        d_xz_BSE, d_u_NSK, d_n_NS = (torch.empty_like(x) for x in (xz_BSE, u_NSK, n_NS))
        d_floor_NS = torch.empty_like(given.floor)
        d_c = torch.empty_like(c, dtype=torch.float32)
        after = u_NSK, n_NS, given.floor, c, xz_BSE, *args.epsilons
        d_after = d_u_NSK, d_n_NS, d_floor_NS, d_c, d_xz_BSE, d_weights
        d_out_BSE = d_out_BSE.contiguous()
        call("after_cell_backward", args.sizes, args.weights, *after, d_out_BSE, *d_after)
        *d_qkv, d_a_NS, d_max_NS = weighted_sum_backward(args.sizes, given, d_u_NSK, d_n_NS)
        d_gates = d_a_NS.double(), d_max_NS.double(), d_floor_NS
        (d_raw_BSG,) = torch.autograd.grad(gates, raw_BSG, d_gates)
        before = xz_BSE, d_raw_BSG.contiguous(), d_c, *d_qkv, d_xz_BSE, d_weights
        call("before_cell_backward", args.sizes, args.weights, *before)
        return d_xz_BSE, None, None, *d_weights


def before_cell(xz_BSE: Tensor, args: Pass) -> tuple[CellInput, Tensor]:
    """Compute the cell's inputs and the gates' pre-activations ``[B, S, 2 H]``."""
    batch, tokens, heads, _ = args.sizes
    empty = partial(args.workspace.empty, like=xz_BSE)
    shape = batch * heads, tokens, args.sizes.head_size
    c, k, v = (empty(name, *shape) for name in "ckv")
    raw_BSG = empty("gates", batch, tokens, 2 * heads, dtype=torch.float32)
    call("before_cell", args.sizes, args.weights, xz_BSE, c, k, v, raw_BSG)
    return CellInput(c, k, v, *_gates_by_head(args.gates(raw_BSG), args.sizes.head_size)), raw_BSG


def _gates_by_head(gates: CellGates, head_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The cell's gates as ``[N, S]``, for scores without the keys' factor 1 / sqrt(K)."""
    a, running_max, floor = (x.transpose(1, 2).flatten(0, 1).contiguous() for x in gates)
    return a.double(), running_max.double(), floor.float() * math.sqrt(head_size)


def weighted_sum(sizes: Sizes, given: CellInput, workspace: Workspace) -> tuple[Tensor, Tensor]:
    """Compute the cell's sums u ``[N, S, K]`` and n ``[N, S]``; see `torch_impl.weighted_sum`."""
    u_NSK = workspace.empty("u", *given.v.shape, like=given.v)
    n_NS = workspace.empty("n", *given.floor.shape, like=given.floor)
    call("weighted_sum", sizes, *given[:5], torch.get_num_threads(), u_NSK, n_NS)
    return u_NSK, n_NS


def weighted_sum_backward(
    sizes: Sizes, given: CellInput, d_u_NSK: Tensor, d_n_NS: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, a and the running maximum."""
    d_q, d_k, d_v = (torch.empty_like(given.c) for _ in "qkv")
    d_a, d_max = torch.empty_like(given.floor), torch.empty_like(given.floor)
    d_sums = d_u_NSK, d_n_NS, torch.get_num_threads()
    call("weighted_sum_backward", sizes, *given[:5], *d_sums, d_q, d_k, d_v, d_a, d_max)
    return d_q, d_k, d_v, d_a, d_max
