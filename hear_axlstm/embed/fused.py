"""Encoding on a CPU without gradients: folded weights, and a few windows at a time on each core.

Shapes: W windows, N patches, S = N + 1 tokens, D model width, E inner width, H heads, K head size.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from hear_axlstm.models import mlstm
from hear_axlstm.models.blocks import NORM_EPS, MLSTMBlock, TransformerBlock
from hear_axlstm.models.encoder import Encoder
from hear_axlstm.ops import native
from hear_axlstm.ops.convolution import WIDTH, convolve
from hear_axlstm.ops.cores import on_each_core
from hear_axlstm.ops.fuse import MAP_WIDTH, MixSettings, MixWeights, fold, is_bare, parts
from hear_axlstm.ops.onednn import linear

CHANNELS_AT_ONCE = 9216  # E times windows: with fewer, weights are read from memory more often
Block = Callable[[Tensor, native.Memory], Tensor]  # tokens [B, S, D] to tokens


@torch.no_grad()
def encode_windows(encoder: Encoder, mel_WTF: Tensor, dtype: torch.dtype) -> Tensor:
    """The patches' embeddings of windows, as `Encoder.forward` gives them, without class token.

    Args:
        encoder: on the CPU.
        mel_WTF: standardized log-mel ``[W, T, F]``.
        dtype: float32, or bfloat16 for the products inside the blocks.

    Returns:
        float32 ``[W, N, D]``.
    """
    blocks = folded_blocks(encoder, dtype)

    @torch.no_grad()  # counts for the thread that it runs in
    def encode(patches_BND: Tensor) -> Tensor:
        cls = encoder.cls_token.expand(len(patches_BND), 1, -1)
        tokens, memory = torch.cat([cls, patches_BND], dim=1), native.Memory()
        for block in blocks:
            tokens = block(tokens, memory)
        return encoder.norm(tokens[:, 1:])

    most = max(1, CHANNELS_AT_ONCE // encoder.config.inner_dim)
    parts = -(-len(mel_WTF) // most)
    parts += -parts % torch.get_num_threads()  # so that no core waits for the others at the end
    parts = min(parts, len(mel_WTF))
    return torch.cat(on_each_core(encode, encoder.patches(mel_WTF).tensor_split(parts)))


class Past:
    """What a causal block keeps of the tokens before, so that a window can come in parts."""

    def __init__(self) -> None:
        self._x_BSE: Tensor | None = None
        self._state: mlstm.State | None = None

    def convolve(self, x_BSE: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """As `hear_axlstm.ops.convolution.convolve`, over these and the last tokens before."""
        seen = 0 if self._x_BSE is None else self._x_BSE.shape[1]
        if self._x_BSE is not None:
            x_BSE = torch.cat([self._x_BSE, x_BSE], dim=1)
        self._x_BSE = x_BSE[:, 1 - WIDTH :].clone()
        return convolve(x_BSE, weight, bias)[:, seen:]

    def cell(self, q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor) -> Tensor:
        """As `mlstm.cell`, from the state that the tokens before have left."""
        h, self._state = mlstm.chunkwise(q, k, v, log_i, log_f, self._state)
        return h


class FoldedBlock:
    """An mLSTM block that computes the same from fewer and cheaper operations (see `folding`)."""

    def __init__(self, block: MLSTMBlock, dtype: torch.dtype) -> None:
        self.norm, self.reverse = 1.0 + block.norm.weight, block.reverse
        self.settings = block.settings
        up, self.weights, down = fold(block, dtype)
        self.up, self.down = native.Projection(up), native.Projection(down)

    def __call__(
        self, tokens_BSD: Tensor, memory: native.Memory, past: Past | None = None
    ) -> Tensor:
        """Tokens ``[B, S, D]`` in float32, before and after.

        Args:
            tokens_BSD: the tokens of windows, or those that follow what `past` has seen.
            memory: to work in.
            past: of the window that goes on; it takes these tokens in.
        """
        source = tokens_BSD.flip(1) if self.reverse else tokens_BSD
        normed = nnf.layer_norm(source, source.shape[-1:], self.norm, eps=NORM_EPS)
        xz = self.up(normed, memory, "xz")
        if past is None and native.is_usable(xz, self.settings):
            mixed = native.mix(xz, self.weights, self.settings, memory)
        else:
            mixed = mix_by_torch(xz, self.weights, self.settings, past)
        mixed = self.down(mixed, memory, "down").float()
        return tokens_BSD + (mixed.flip(1) if self.reverse else mixed)


def mix_by_torch(
    xz_BSE: Tensor, weights: MixWeights, settings: MixSettings, past: Past | None = None
) -> Tensor:
    """The same as `native.mix`, without gradients; or what follows on tokens before."""
    convolution, cell = (past.convolve, past.cell) if past else (convolve, mlstm.cell)
    low = xz_BSE.dtype  # of the large products; what lies between them is float32
    x_BSE, z_BSE = xz_BSE.float().chunk(2, dim=-1)
    c_BSE = nnf.silu(convolution(x_BSE, weights.conv, weights.conv_bias), inplace=True)
    gates = linear(c_BSE, weights.gates_c) + linear(x_BSE, weights.gates_x) + weights.gate_bias
    input_BSH, forget_BSH = gates.chunk(2, dim=-1)
    log_i, log_f = mlstm.log_gates(input_BSH, forget_BSH, settings.input_gate)
    c_BSHK = _sort_by_heads(c_BSE, settings.heads)
    k_BSHK = _sort_by_heads(_map(c_BSE, weights.key), settings.heads)
    v_BSHK = _sort_by_heads(_map(x_BSE, weights.value), settings.heads)
    q, k, v = (t.to(low) for t in (c_BSHK, k_BSHK, v_BSHK))
    h_BSHK = cell(q, k, v, log_i, log_f).float()
    z_BSHK = z_BSE.reshape(h_BSHK.shape)
    return _gate(h_BSHK, c_BSHK, z_BSHK, weights.head_norm, weights.skip).flatten(2).to(low)


def _sort_by_heads(x_BSE: Tensor, heads: int) -> Tensor:
    """Channels by place, as ``[B, S, H, K]`` whose heads are dense matrices in memory."""
    places_BSPHJ = x_BSE.unflatten(-1, (MAP_WIDTH, heads, -1))
    return places_BSPHJ.permute(0, 3, 1, 2, 4).flatten(3).transpose(1, 2)


def _map(x_BSE: Tensor, weight: Tensor) -> Tensor:
    """A block-diagonal map of channels that are ordered by place."""
    inputs = x_BSE.unflatten(-1, (MAP_WIDTH, -1)).unsqueeze(-2).unbind(-3)
    out = inputs[0] * weight[0]
    for x, w in zip(inputs[1:], weight[1:], strict=True):
        out.addcmul_(x, w)
    return out.flatten(-2)


def _gate(h_BSHK: Tensor, c_BSHK: Tensor, z_BSHK: Tensor, norm: Tensor, skip: Tensor) -> Tensor:
    """Layer norm over K (torch's own is slow for short rows), plus skip, times SiLU(z)."""
    h_BSHK = h_BSHK - h_BSHK.mean(-1, keepdim=True)
    length = torch.linalg.vector_norm(h_BSHK, dim=-1, keepdim=True)
    h_BSHK.mul_(torch.rsqrt(length.square() / h_BSHK.shape[-1] + NORM_EPS))
    return h_BSHK.mul_(norm).addcmul_(c_BSHK, skip).mul_(nnf.silu(z_BSHK, inplace=True))


def folded_blocks(encoder: Encoder, dtype: torch.dtype) -> list[Block]:
    """The blocks in their cheap form, or themselves where something watches or replaces a part.

    The cheap form is kept, and made anew when a weight has changed. What changes by way of
    `.data` leaves no trace but in a parameter's values: it counts if it changes their float32 sum.
    """
    return [_folded(block, dtype) for block in encoder.blocks]


_folds: weakref.WeakKeyDictionary[nn.Module, tuple[object, Block]] = weakref.WeakKeyDictionary()


@torch.no_grad()
def _folded(block: nn.Module, dtype: torch.dtype) -> Block:
    fold_block = _way_to_fold(block, dtype)
    if fold_block is None:
        return partial(_called, block, dtype)
    parameters = list(block.parameters())
    sums = torch.stack([parameter.sum() for parameter in parameters]).tolist()
    versions = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in parameters]
    state = (dtype, sums, versions)
    known = _folds.get(block)
    if known is None or known[0] != state:
        known = _folds[block] = state, fold_block(block, dtype)
    return known[1]


def _way_to_fold(
    block: nn.Module, dtype: torch.dtype
) -> Callable[[Any, torch.dtype], Block] | None:
    if not is_bare(block) or parts(block) != getattr(block, "made_of", None):
        return None
    if type(block) is MLSTMBlock:
        return FoldedBlock if block.form == "auto" else None
    return _lowered if type(block) is TransformerBlock and dtype != torch.float32 else None


def _lowered(block: TransformerBlock, dtype: torch.dtype) -> Block:
    lower = copy.deepcopy(block).to(dtype)
    return lambda tokens_BSD, _: lower(tokens_BSD.to(dtype)).float()


def _called(block: nn.Module, dtype: torch.dtype, tokens_BSD: Tensor, _: native.Memory) -> Tensor:
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        return block(tokens_BSD).float()
