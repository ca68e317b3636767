"""A whole mLSTM block with fixed weights in compiled C++ (`csrc/block.cpp`).

Shapes: B windows, S tokens, D model width, H heads, K head size, E = H K.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from torch import Tensor

from hear_axlstm.ops import library
from hear_axlstm.ops.contract import (
    EPS,
    LARGEST_EXPONENT,
    MAP_WIDTH,
    NORM_EPS,
    LogGateFunction,
    MixerWeights,
)
from hear_axlstm.ops.cores import thread_count
from hear_axlstm.ops.cpu_mixer import check_shapes
from hear_axlstm.ops.library import Sizes, call
from hear_axlstm.ops.packed_linear import PackedLinear
from hear_axlstm.ops.workspace import Workspace


class CompiledBlock:
    """An mLSTM block with fixed weights in two calls, around the activations of its gates.

    Args:
        norm: scale of the first norm, ``[D]``.
        up: the fused projections, packed; see `FusedWeights`.
        weights: fused weights of everything between the projections, float32.
        down: as `up`.
        heads: H.

    Raises:
        ValueError: for tensors whose shapes don't fit together.
    """

    def __init__(
        self, norm: Tensor, up: PackedLinear, weights: MixerWeights, down: PackedLinear, heads: int
    ) -> None:
        check_shapes(up.shape[0], weights, heads)
        width, inner = down.shape
        if up.shape != (2 * inner, width) or norm.shape != (width,) or width > inner:
            raise ValueError(
                f"shapes do not match: up {tuple(up.shape)}, down {tuple(down.shape)}, "
                f"norm {tuple(norm.shape)}"
            )
        self.heads, self.width, self.inner, self.dtype = heads, width, inner, up.dtype
        self._tensors = norm, up.weight, weights, down.weight  # used through their addresses
        numbers = width, EPS * math.sqrt(inner // heads), NORM_EPS, LARGEST_EXPONENT
        self._weights = library.block_weights(weights, norm, up.weight, down.weight, numbers)

    def __call__(
        self,
        tokens_BSD: Tensor,
        log_gates: LogGateFunction,
        workspace: Workspace,
        state: Sequence[Tensor] = (),
    ) -> None:
        """Update float32 tokens ``[B, S, D]`` in place, shared by `cores.thread_count` threads.

        Args:
            tokens_BSD: tokens of whole windows, or of a part of one.
            log_gates: activations of the gates.
            workspace: scratch memory.
            state: for a part of a window, the last three inputs of the convolution ``[1, 3, E]``,
                and memory ``[1, H, K, K]``, normalizer ``[1, H, K]`` and stabilizer m ``[1, H]``
                after the earlier tokens, see `hear_axlstm.models.mlstm.State`; updated in place.
        """
        batch, tokens, width = map(int, tokens_BSD.shape)
        sizes = Sizes(batch, tokens, self.heads, self.inner // self.heads // MAP_WIDTH)
        if width != self.width or (state and batch != 1):
            windows = 1 if state else "B"
            raise ValueError(
                f"tokens have shape {tuple(tokens_BSD.shape)}, not [{windows}, S, {self.width}]"
            )
        empty, threads = partial(workspace.empty, like=tokens_BSD), thread_count()
        scratch = empty("block", (batch * tokens + 1) * 6 * self.inner, dtype=self.dtype)
        raw_BSG = empty("gates", batch, tokens, 2 * self.heads)
        if not state:
            none = tokens_BSD.new_empty(0)
            state = none.to(self.dtype), none, none, none.double()
        context, memory, normalizer, m = state
        before = tokens_BSD, threads, context, scratch, raw_BSG
        call("block_begin", sizes, self._weights, *before)
        log_i, log_f = (x.contiguous() for x in log_gates(raw_BSG))
        after = log_i, log_f, m, memory, normalizer, threads, scratch, tokens_BSD
        call("block_end", sizes, self._weights, *after)
