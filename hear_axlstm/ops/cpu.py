"""The backend for CPUs: the interior of an mLSTM block in compiled C++ (`csrc/`), via ctypes.

`pip install` compiles it if there is a C++ compiler. The projections around it are left to
`onednn.py` unless `gemm` is faster. For the backward pass, the up-projection and the cell's inputs
and sums are stored; everything else is recomputed.

Shapes: B windows, S tokens, H heads, N = B H, K head size, E = H K.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from hear_axlstm.ops.library import call
from hear_axlstm.ops.onednn import fixed_weight, is_traced, linear


class Workspace:
    """Reusable scratch tensors by name; avoids page faults on newly allocated memory.

    For one thread, without gradients. A tensor is valid until its name is requested again.
    """

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def empty(
        self, name: str, like: Tensor, *shape: int, dtype: torch.dtype | None = None
    ) -> Tensor:
        """A tensor of this shape on the device of `like`, in its dtype unless `dtype` is given."""
        dtype = dtype or like.dtype
        tensor = self._tensors.get(name)
        if tensor is None or (tensor.shape, tensor.dtype) != (shape, dtype):
            tensor = self._tensors[name] = like.new_empty(shape, dtype=dtype)
        return tensor


class PackedLinear:
    """Linear layer without bias whose weight is packed for `gemm` if that is faster.

    Args:
        weight: ``[S, K]``, float32 or bfloat16; a copy is kept.
        group: columns of a packed group, `library.gemm_columns`; 0 leaves the product to torch.
    """

    def __init__(self, weight: Tensor, group: int) -> None:
        self.shape, self.dtype = weight.shape, weight.dtype
        in_word = 4 // weight.element_size()
        self.is_packed = (
            weight.device.type == "cpu"
            and group > 0
            and weight.shape[0] % group == 0
            and weight.shape[1] % in_word == 0
        )
        if self.is_packed:  # as [groups, steps, group, in_word]
            weight = weight.unflatten(0, (-1, group)).unflatten(2, (-1, in_word)).transpose(1, 2)
            self._weight = weight.contiguous()
        else:
            self._weight = fixed_weight(weight)

    def __call__(self, x: Tensor, workspace: Workspace, name: str) -> Tensor:
        """``[..., K]`` -> ``[..., S]`` in the weight's dtype, possibly in the named workspace."""
        x = x.to(self.dtype)
        if not self.is_packed:
            return linear(x, self._weight)
        columns, depth = self.shape
        out = workspace.empty(name, x, *x.shape[:-1], columns)
        sizes = x.numel() // depth, depth, columns, torch.get_num_threads()
        call("gemm", x.contiguous(), self._weight, *sizes, out)
        return out


class CellInput(NamedTuple):
    """Inputs of the cell, and its gates."""

    c: Tensor
    """SiLU of the convolution, which is also the query, ``[N, S, K]``."""
    k: Tensor
    v: Tensor
    a: Tensor
    """log i - F, float64 ``[N, S]``."""
    running_max: Tensor
    """M, float64 ``[N, S]``."""
    floor: Tensor
    """The least normalizer, sqrt(K) exp(-m), float32 ``[N, S]``."""


class Call(NamedTuple):
    """Arguments shared by all functions of one forward or backward pass."""

    sizes: tuple[int, int, int, int]
    """Windows, tokens, heads, blocks of a head."""
    weights: tuple[Tensor, ...]
    gates: GateFunction
    workspace: Workspace

    @property
    def head_size(self) -> int:
        """K."""
        return self.sizes[3] * MAP_WIDTH


def is_usable(x: Tensor) -> bool:
    """Whether the compiled code supports tensors like this one."""
    is_here = x.device.type == "cpu" and not is_traced(x) and library.is_available()
    return is_here and product_dtype(x) in library.SUFFIXES


def product_dtype(x: Tensor) -> torch.dtype:
    """Dtype of matrix products with a tensor on a CPU, taking autocast into account."""
    autocast = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64
    return torch.get_autocast_dtype("cpu") if autocast else x.dtype


def mixer(
    xz_BSE: Tensor,
    weights: MixerWeights,
    heads: int,
    gates: GateFunction,
    workspace: Workspace | None = None,
) -> Tensor:
    """Compute convolution, maps, gates, quadratic cell, head norm, skip and output gate.

    Args:
        xz_BSE: the fused up-projection ``[B, S, 2 E]``, float32 or bfloat16.
        weights: fused weights; used in float32.
        heads: H.
        gates: function from pre-activations to the cell's gates.
        workspace: scratch memory without gradients; it also holds the result.

    Returns:
        ``[B, S, E]`` in the same dtype.

    Raises:
        ValueError: for tensors whose shapes don't fit together.
    """
    xz_BSE, tensors = xz_BSE.contiguous(), tuple(weight.float() for weight in weights)
    batch, tokens, double = map(int, xz_BSE.shape)
    sizes = batch, tokens, heads, double // 2 // heads // MAP_WIDTH
    _check_shapes(double, tensors, heads)
    if workspace is None:
        return _Mixer.apply(xz_BSE, sizes, gates, *tensors)
    at = Call(sizes, tensors, gates, workspace)
    return _after_cell(xz_BSE, at, before_cell(xz_BSE, at)[0])[0]


def continued_mixer(
    xz_BSE: Tensor,
    weights: MixerWeights,
    heads: int,
    gates: GateFunction,
    earlier: int,
    state: Sequence[Tensor],
    workspace: Workspace,
) -> Tensor:
    """Compute `mixer` for a part of one window, without gradients.

    Args:
        xz_BSE: as in `mixer`, with up to three earlier tokens in front, for the convolution.
        weights: as in `mixer`.
        heads: as in `mixer`.
        gates: as in `mixer`, continued from the state.
        earlier: number of earlier tokens in `xz_BSE`.
        state: memory ``[1, H, K, K]``, normalizer ``[1, H, K]`` and stabilizer m ``[1, H]`` after
            the earlier tokens, see `hear_axlstm.models.mlstm.State`; the first two are updated in
            place.
        workspace: scratch memory; it also holds the result.

    Returns:
        ``[1, S, E]`` for the tokens that follow.
    """
    xz_BSE = xz_BSE[:, earlier:]
    _, tokens, double = map(int, xz_BSE.shape)
    sizes = 1, tokens, heads, double // 2 // heads // MAP_WIDTH
    _check_shapes(double, weights, heads)
    at, (memory, normalizer, m) = Call(sizes, tuple(weights), gates, workspace), state
    given, _ = before_cell(xz_BSE, at, earlier)
    return _after_cell(xz_BSE, at, given, (m.flatten(), memory, normalizer))[0]


def _check_shapes(double: int, weights: tuple[Tensor, ...], heads: int) -> None:
    inner = double // 2
    maps, gate, norm = (MAP_WIDTH, MAP_WIDTH, inner // MAP_WIDTH), (2 * heads, inner), (heads, -1)
    wanted = (4, inner), (inner,), maps, maps, gate, gate, (2 * heads,), norm, norm
    for name, weight, shape in zip(MixerWeights._fields, weights, wanted, strict=True):
        shape = tuple(inner // heads if size == -1 else size for size in shape)
        if tuple(weight.shape) != shape or inner % (heads * MAP_WIDTH):
            raise ValueError(f"{name} has shape {tuple(weight.shape)} instead of {shape}")


def _after_cell(
    xz_BSE: Tensor, at: Call, given: CellInput, state: tuple[Tensor, ...] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the result and the cell's sums, which may continue from a state."""
    u_NSK, n_NS = cell_sums(at.sizes, given, at.workspace)
    if state:
        call("cell_carry", at.sizes, *given[:5], *state, u_NSK, n_NS)
    batch, tokens, double = xz_BSE.shape
    out_BSE = at.workspace.empty("out", xz_BSE, batch, tokens, double // 2)
    after = u_NSK, n_NS, given.floor, given.c, xz_BSE, EPS * math.sqrt(at.head_size), NORM_EPS
    call("after_cell", at.sizes, at.weights, *after, out_BSE)
    return out_BSE, u_NSK, n_NS


class _Mixer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        xz_BSE: Tensor,
        sizes: tuple[int, int, int, int],
        gates: GateFunction,
        *weights: Tensor,
    ) -> Tensor:
        at = Call(sizes, weights, gates, Workspace())
        given, raw_BSG = before_cell(xz_BSE, at)
        out_BSE, *sums = _after_cell(xz_BSE, at, given)
        ctx.sizes, ctx.gates = sizes, gates
        ctx.save_for_backward(xz_BSE, *given[:3], raw_BSG, *sums, *weights)
        return out_BSE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out_BSE: Tensor) -> tuple[Tensor | None, ...]:
        xz_BSE, c, k, v, raw_BSG, u_NSK, n_NS, *weights = ctx.saved_tensors
        at = Call(ctx.sizes, tuple(weights), ctx.gates, Workspace())
        with torch.enable_grad():
            raw_BSG = raw_BSG.detach().requires_grad_()
            gates = _by_heads(at.gates(raw_BSG), at.head_size)
        given = CellInput(c, k, v, *(x.detach() for x in gates))
        d_weights = tuple(torch.zeros_like(weight) for weight in weights)
        d_xz_BSE, d_u_NSK, d_n_NS = (torch.empty_like(x) for x in (xz_BSE, u_NSK, n_NS))
        d_floor_NS = torch.empty_like(given.floor)
        d_c = torch.empty_like(c, dtype=torch.float32)
        after = u_NSK, n_NS, given.floor, c, xz_BSE, EPS * math.sqrt(at.head_size), NORM_EPS
        d_after = d_u_NSK, d_n_NS, d_floor_NS, d_c, d_xz_BSE, d_weights
        d_out_BSE = d_out_BSE.contiguous()
        call("after_cell_backward", at.sizes, at.weights, *after, d_out_BSE, *d_after)
        *d_qkv, d_a_NS, d_max_NS = cell_sums_backward(at.sizes, given, d_u_NSK, d_n_NS)
        d_gates = d_a_NS.double(), d_max_NS.double(), d_floor_NS
        (d_raw_BSG,) = torch.autograd.grad(gates, raw_BSG, d_gates)
        before = xz_BSE, d_raw_BSG.contiguous(), d_c, *d_qkv, d_xz_BSE, d_weights
        call("before_cell_backward", at.sizes, at.weights, *before)
        return d_xz_BSE, None, None, *d_weights


def before_cell(xz_BSE: Tensor, at: Call, earlier: int = 0) -> tuple[CellInput, Tensor]:
    """Compute the cell's inputs and the gates' pre-activations ``[B, S, 2 H]``.

    `earlier` tokens of a single window lie in memory before `xz_BSE`.
    """
    batch, tokens, heads, _ = at.sizes
    empty, shape = at.workspace.empty, (batch * heads, tokens, at.head_size)
    c, k, v = (empty(name, xz_BSE, *shape) for name in "ckv")
    raw_BSG = empty("gates", xz_BSE, batch, tokens, 2 * heads, dtype=torch.float32)
    call("before_cell", at.sizes, at.weights, xz_BSE, earlier, c, k, v, raw_BSG)
    return CellInput(c, k, v, *_by_heads(at.gates(raw_BSG), at.head_size)), raw_BSG


def _by_heads(gates: CellGates, head_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The cell's gates as ``[N, S]``, for scores without the keys' factor 1 / sqrt(K)."""
    a, running_max, floor = (x.transpose(1, 2).flatten(0, 1).contiguous() for x in gates)
    return a.double(), running_max.double(), floor.float() * math.sqrt(head_size)


def cell_sums(
    sizes: tuple[int, ...], given: CellInput, workspace: Workspace
) -> tuple[Tensor, Tensor]:
    """Compute the cell's sums u ``[N, S, K]`` and n ``[N, S]``; see `torch_impl.weighted_sum`."""
    u_NSK = workspace.empty("u", given.v, *given.v.shape)
    n_NS = workspace.empty("n", given.floor, *given.floor.shape)
    call("cell_sums", sizes, *given[:5], torch.get_num_threads(), u_NSK, n_NS)
    return u_NSK, n_NS


def cell_sums_backward(
    sizes: tuple[int, ...], given: CellInput, d_u_NSK: Tensor, d_n_NS: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, a and the running maximum."""
    d_q, d_k, d_v = (torch.empty_like(given.c) for _ in "qkv")
    d_a, d_max = torch.empty_like(given.floor), torch.empty_like(given.floor)
    d_sums = d_u_NSK, d_n_NS, torch.get_num_threads()
    call("cell_sums_backward", sizes, *given[:5], *d_sums, d_q, d_k, d_v, d_a, d_max)
    return d_q, d_k, d_v, d_a, d_max
