"""Interfaces of a backend: the mLSTM cell, and the mixer: all between a block's projections.

`hear_axlstm.models.mlstm` has the equations. A backend does not depend on the gates' activations:
it receives vectors computed from the gates (`CellGates`), or a function that computes them.

Shapes: B windows, S tokens, D model width, H heads, K head size, E = H K inner width, J = K / 4
blocks of a head in the block-diagonal maps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

from torch import Tensor

from hear_axlstm.ops.workspace import Workspace

EPS = 1e-6  # added to the cell's normalizer
NORM_EPS = 1e-5  # added to the variance in both norms of an mLSTM block
LARGEST_EXPONENT = 80.0  # in the normalizer's floor: a larger one would overflow float32
CONV_WIDTH = 4  # tokens in the causal convolution's kernel
MAP_WIDTH = 4  # channels in each block of a block-diagonal map
QUADRATIC_TOKENS = 7  # times K: up to this length the quadratic form is faster (measured)


class CellGates(NamedTuple):
    """The gates of a window, in the form used by the cell."""

    a: Tensor
    """log i - F, where F is the running sum of log f; float64 if supported, ``[B, S, H]``."""
    running_max: Tensor
    """M, the running maximum of `a` over the tokens; shaped and typed like `a`."""
    floor: Tensor
    """The normalizer's floor, exp(-m) with m = F + M; float32 ``[B, S, H]``."""


GateFunction: TypeAlias = Callable[[Tensor], CellGates]
"""Maps pre-activations ``[B, S, 2 H]``, input gates first, to `CellGates`; differentiable."""

LogGateFunction: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps pre-activations ``[B, S, 2 H]`` to the logarithms of both gates ``[B, S, H]``."""


class BlockTensors(NamedTuple):
    """The parameters of an mLSTM block that are fused: all except the first norm's."""

    proj_up: Tensor
    """Up-projection ``[2 E, D]``, rows of x, then of z."""
    conv: Tensor
    """Kernel of the convolution, ``[4, E]``."""
    conv_bias: Tensor
    """Its bias, ``[E]``."""
    q_proj: Tensor
    """Block-diagonal map ``[E / 4, out 4, in 4]``, like the next two."""
    k_proj: Tensor
    v_proj: Tensor
    igate: Tensor
    """Input gate ``[H, 3 E]``, applied to [q, k, v]; the forget gate has the same shape."""
    igate_bias: Tensor
    """Its bias, ``[H]``."""
    fgate: Tensor
    fgate_bias: Tensor
    head_norm: Tensor
    """Scale of the norm per head, ``[E]``, an offset from 1."""
    skip: Tensor
    """Scale of the skip connection, ``[E]``."""
    proj_down: Tensor
    """Down-projection, ``[D, E]``."""


class MixerWeights(NamedTuple):
    """Fused weights of the operations between the two projections, in the order of numbers.h."""

    conv: Tensor
    """Kernel ``[4, E]``, channels interleaved: ``[place 4, H, J]``."""
    conv_bias: Tensor
    """Bias ``[E]``, interleaved."""
    key: Tensor
    """Wq^T Wk, ``[in 4, out 4, H J]``."""
    value: Tensor
    """Wv, ``[in 4, out 4, H J]``."""
    gates_c: Tensor
    """Gates ``[2 H, E]``, input gates first, channels interleaved; applied to c."""
    gates_x: Tensor
    """Gates ``[2 H, E]``, in the same order; applied to x."""
    gate_bias: Tensor
    """Bias of the gates, ``[2 H]``."""
    head_norm: Tensor
    """Scale, ``[H, K]``, channels of a head interleaved: ``[place 4, J]``."""
    skip: Tensor
    """Scale ``[H, K]``, interleaved like `head_norm`."""


class FusedWeights(NamedTuple):
    """Fused weights of an mLSTM block, except those of its first norm."""

    up: Tensor
    """Up-projection ``[2 E, D]``: x interleaved, then z by head, interleaved."""
    mixer: MixerWeights
    down: Tensor
    """Down-projection ``[D, E]``, channels by head, interleaved."""


class QuadraticCell(Protocol):
    """The hidden states of the cell from its gates, which every backend computes."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, a: Tensor, running_max: Tensor, floor: Tensor
    ) -> Tensor:
        """Compute the quadratic form for windows with an empty initial state; differentiable.

        Args:
            q: queries ``[B, S, H, K]``.
            k: keys ``[B, S, H, K]``, not yet divided by sqrt(K).
            v: values ``[B, S, H, K]``, in the dtype of q and k.
            a: log i - F, see `CellGates`.
            running_max: M, see `CellGates`.
            floor: the normalizer's floor, see `CellGates`.

        Returns:
            h ``[B, S, H, K]`` in the dtype of v.
        """


class Mixer(Protocol):
    """All that a block computes between its projections; a backend may have one."""

    def __call__(
        self,
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
            workspace: scratch memory for calls without gradients; it also holds the result.

        Returns:
            ``[B, S, E]`` in the same dtype.

        Raises:
            ValueError: for tensors whose shapes don't fit together.
        """


def is_short(tokens: int, head_size: int) -> bool:
    """Whether the quadratic form of the cell is faster than the chunkwise one."""
    return tokens <= QUADRATIC_TOKENS * head_size
