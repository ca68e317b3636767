"""An mLSTM block with fused weights on a CPU, for whole windows and for streams.

Shapes: B windows, S tokens, D model width, E inner width, H heads, K head size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as nnf

from hear_axlstm.models import mlstm
from hear_axlstm.models.mlstm import MLSTMBlock
from hear_axlstm.ops import torch_impl
from hear_axlstm.ops.backends import compiled_block, mixer_for, packed, uses_library
from hear_axlstm.ops.contract import CONV_WIDTH, NORM_EPS, is_short
from hear_axlstm.ops.fuse import fuse_weights
from hear_axlstm.ops.packed_linear import PackedLinear
from hear_axlstm.ops.workspace import Workspace

Pack = Callable[[Tensor], PackedLinear]


class StreamState:
    """State of a causal block after earlier tokens, for windows processed in parts.

    Args:
        like_HK: a tensor with the block's heads and head size, on its device.
        dtype: data type of the matrix products.
    """

    def __init__(self, like_HK: Tensor, dtype: torch.dtype) -> None:
        inner = like_HK.numel()
        self.context = like_HK.new_zeros(1, CONV_WIDTH - 1, inner, dtype=dtype)  # for `convolve`
        self.state = mlstm.empty_state(like_HK[None, None])

    def tensors(self) -> tuple[Tensor, ...]:
        """The state in the form that a compiled block expects."""
        return self.context, *self.state

    def convolve(self, x_BSE: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Convolve like `torch_impl.convolve`, with the preceding tokens as context."""
        x_BSE = torch.cat([self.context.to(x_BSE.dtype), x_BSE], dim=1)
        self.context = x_BSE[:, 1 - CONV_WIDTH :].to(self.context.dtype, copy=True)
        return torch_impl.convolve(x_BSE, weight, bias)[:, CONV_WIDTH - 1 :]

    def cell(self, q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor) -> Tensor:
        """Compute `mlstm.cell` from the state after the preceding tokens."""
        h, self.state = mlstm.chunkwise(q, k, v, log_i, log_f, self.state)
        return h


class FusedMLSTM:
    """An mLSTM block with fused weights: the same result with fewer and cheaper operations.

    Args:
        block: block built from `hear_axlstm.models.layers`.
        dtype: data type of the large matrix products.
        pack: packs the weights of the projections.
    """

    def __init__(self, block: MLSTMBlock, dtype: torch.dtype, pack: Pack = packed) -> None:
        self.norm, self.reverse = 1.0 + block.norm.weight, block.reverse
        self.heads, self.head_size = block.heads, block.skip.numel() // block.heads
        self.log_gates = partial(mlstm.split_gates, input_gate=block.input_gate)
        self.gates = partial(mlstm.cell_gates, input_gate=block.input_gate)
        up, self.weights, down = fuse_weights(block.tensors(), block.heads, dtype)
        self.up, self.down = pack(up), pack(down)
        self.compiled = compiled_block(self.norm, self.up, self.weights, self.down, self.heads)

    def begin(self) -> StreamState:
        """State before the first token."""
        return StreamState(self.weights.skip, self.up.dtype)

    def __call__(
        self, tokens_BSD: Tensor, workspace: Workspace, state: StreamState | None = None
    ) -> Tensor:
        """Map float32 tokens ``[B, S, D]`` to float32 tokens ``[B, S, D]``, perhaps in place.

        Args:
            tokens_BSD: tokens of whole windows, or those that follow the tokens in `state`.
            workspace: scratch memory.
            state: state of a window that is processed in parts; updated in place.
        """
        if self.reverse:
            return self._forward(tokens_BSD.flip(1), workspace, state).flip(1)
        return self._forward(tokens_BSD, workspace, state)

    def _forward(
        self, tokens_BSD: Tensor, workspace: Workspace, state: StreamState | None
    ) -> Tensor:
        in_one_part = state or is_short(tokens_BSD.shape[1], self.head_size)
        if self.compiled and in_one_part and uses_library(tokens_BSD):
            before = state.tensors() if state else ()
            self.compiled(tokens_BSD, self.log_gates, workspace, before)
            return tokens_BSD
        normed = nnf.layer_norm(tokens_BSD, tokens_BSD.shape[-1:], self.norm, eps=NORM_EPS)
        xz = self.up(normed, workspace, "xz")
        mixer = None if state else mixer_for(tokens_BSD, self.head_size)
        if mixer:
            mixed = mixer(xz, self.weights, self.heads, self.gates, workspace)
        else:
            mixed = self._by_torch(xz, state)
        return tokens_BSD + self.down(mixed, workspace, "down").float()

    def _by_torch(self, xz_BSE: Tensor, state: StreamState | None) -> Tensor:
        inner = state.cell if state else mlstm.cell

        def cell(q: Tensor, k: Tensor, v: Tensor, raw_BSG: Tensor) -> Tensor:
            return inner(q, k, v, *self.log_gates(raw_BSG))

        convolve = state.convolve if state else torch_impl.convolve
        return torch_impl.fused_mixer(xz_BSE, self.weights, self.heads, cell, convolve)
