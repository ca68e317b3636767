"""Encoding on a CPU without gradients: folded weights, and a few windows at a time on each core.

Folding makes the same function cheaper: q and k read the same input c, so that q . k = c . (A c)
with A = Wq^T Wk needs one block-diagonal map instead of two, and the gates, which read q, k and v,
come straight from c and x.

Shapes: W windows, N patches, S = N + 1 tokens, D model width, E inner width, H heads, K head size.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from hear_axlstm import mlstm, native
from hear_axlstm.blocks import MAP_WIDTH, NORM_EPS, BlockDiagonalMap, MLSTMBlock
from hear_axlstm.convolution import convolve
from hear_axlstm.cores import on_each_core
from hear_axlstm.encoder import Encoder
from hear_axlstm.matmul import linear, matmul
from hear_axlstm.weighted_sum import row_blocks

CHANNELS_AT_ONCE = 2304  # E times windows: larger tensors leave the cache, smaller cost more calls
Block = Callable[[Tensor], Tensor]  # tokens [B, S, D] to tokens


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
    blocks = _folded(encoder, dtype)

    @torch.no_grad()  # counts for the thread that it runs in
    def encode(patches_BND: Tensor) -> Tensor:
        cls = encoder.cls_token.expand(len(patches_BND), 1, -1)
        tokens = torch.cat([cls, patches_BND], dim=1)
        for block in blocks:
            tokens = block(tokens)
        return encoder.norm(tokens[:, 1:])

    most = max(1, CHANNELS_AT_ONCE // encoder.config.inner_dim)
    parts = -(-len(mel_WTF) // most)
    parts += -parts % torch.get_num_threads()  # so that no core waits for the others at the end
    parts = min(parts, len(mel_WTF))
    return torch.cat(on_each_core(encode, encoder.patches(mel_WTF).tensor_split(parts)))


class FoldedBlock:
    """An mLSTM block that computes the same from fewer and cheaper operations.

    The channels of x and c are reordered, first by their place (0 to 3) inside the 4 x 4 blocks of
    the maps, so that a map is four multiply-adds of long rows; then they are sorted by heads.
    """

    def __init__(self, block: MLSTMBlock, dtype: torch.dtype) -> None:
        def by_place(weight: Tensor) -> Tensor:
            """Reorder the last axis, E channels, as [place, head, block]."""
            return weight.detach().unflatten(-1, channels).movedim(-1, -3).flatten(-3).contiguous()

        def by_head(weight: Tensor) -> Tensor:
            """Reorder the last axis as [head, place, block]."""
            return weight.detach().unflatten(-1, channels).transpose(-1, -2).flatten(-2)

        self.heads, self.input_gate, self.reverse = block.heads, block.input_gate, block.reverse
        channels = (self.heads, -1, MAP_WIDTH)
        self.norm = 1.0 + block.norm.weight.detach()
        up_x, up_z = block.up.weight.chunk(2)
        up = torch.cat([by_place(up_x.T).T, by_head(up_z.T).flatten(-2).T])
        self.up = up.to(dtype)
        self.conv, self.conv_bias = by_place(block.conv.weight), by_place(block.conv.bias)
        query_key = block.q.weight.mT @ block.k.weight  # A, block by block
        self.key, self.value = _by_input(query_key), _by_input(block.v.weight)
        gates = torch.cat([block.input_gate_map.weight, block.forget_gate_map.weight])
        of_q, of_k, of_v = gates.chunk(3, dim=1)
        self.gates_c = by_place(_through(of_q, block.q) + _through(of_k, block.k))
        self.gates_x = by_place(_through(of_v, block.v))
        self.gate_bias = torch.cat([block.input_gate_map.bias, block.forget_gate_map.bias]).detach()
        self.head_norm, self.skip = by_head(1.0 + block.head_norm.weight), by_head(block.skip)
        self.down = by_head(block.down.weight).flatten(-2).to(dtype)
        self.eps = mlstm.EPS * math.sqrt(self.down.shape[1] / self.heads), NORM_EPS

    def __call__(self, tokens_BSD: Tensor) -> Tensor:
        """Tokens ``[B, S, D]`` in float32, before and after."""
        source = tokens_BSD.flip(1) if self.reverse else tokens_BSD
        normed = nnf.layer_norm(source, source.shape[-1:], self.norm, eps=NORM_EPS)
        head_size = self.down.shape[1] // self.heads
        parallel = mlstm.fastest_form(source.shape[1], head_size) == "parallel"
        mix = self._mix_natively if parallel and native.library() else self._mix
        mixed = mix(normed.to(self.up.dtype)).float()
        return tokens_BSD + (mixed.flip(1) if self.reverse else mixed)

    def _mix(self, normed_BSD: Tensor) -> Tensor:
        low = normed_BSD.dtype  # of the large products; what lies between them is float32
        x_BSE, z_BSE = linear(normed_BSD, self.up).float().chunk(2, dim=-1)
        c_BSE = nnf.silu(convolve(x_BSE, self.conv, self.conv_bias), inplace=True)
        gates = linear(c_BSE, self.gates_c) + linear(x_BSE, self.gates_x) + self.gate_bias
        input_BSH, forget_BSH = gates.chunk(2, dim=-1)
        log_i, log_f = mlstm.log_gates(input_BSH, forget_BSH, self.input_gate)
        c_BSHK = self._sort_by_heads(c_BSE)
        k_BSHK = self._sort_by_heads(_map(c_BSE, self.key))
        v_BSHK = self._sort_by_heads(_map(x_BSE, self.value))
        q, k, v = (t.to(low) for t in (c_BSHK, k_BSHK, v_BSHK))
        h_BSHK = mlstm.cell(q, k, v, log_i, log_f).float()
        out_BSHK = _gate(h_BSHK, c_BSHK, z_BSE.view_as(h_BSHK), self.head_norm, self.skip)
        return linear(out_BSHK.flatten(2).to(low), self.down)

    def _mix_natively(self, normed_BSD: Tensor) -> Tensor:
        """The same as `_mix`, by compiled code between the products."""
        xz = linear(normed_BSD, self.up)
        weights = (self.conv, self.conv_bias, self.key, self.value, self.gates_c, self.gates_x)
        given = native.before_cell(
            xz, self.heads, self.input_gate == "sigmoid", (*weights, self.gate_bias)
        )
        out = xz.new_empty(*xz.shape[:2], xz.shape[2] // 2)
        for rows, seen in row_blocks(xz.shape[1]):
            scores = matmul(given.c[:, rows], given.k[:, seen].mT)
            sums = native.weigh(scores, rows.start, given)
            u = matmul(scores, given.v[:, seen])
            native.after_cell(
                u, sums, rows.start, given, xz, (self.head_norm, self.skip), self.eps, out
            )
        return linear(out, self.down)

    def _sort_by_heads(self, x_BSE: Tensor) -> Tensor:
        """``[B, S, H, K]`` whose heads are dense matrices in memory."""
        places_BSPHJ = x_BSE.unflatten(-1, (MAP_WIDTH, self.heads, -1))
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


def _by_input(blocks: Tensor) -> Tensor:
    """Blocks ``[n, out 4, in 4]`` as weights ``[in 4, out 4, n]`` for `_map`."""
    return blocks.detach().permute(2, 1, 0).contiguous()


def _through(gates: Tensor, block_map: BlockDiagonalMap) -> Tensor:
    """Weights ``[2 H, E]`` that read a map's output, as weights that read its input."""
    blocks = gates.unflatten(1, (len(block_map.weight), -1))
    return torch.einsum("gno,noi->gni", blocks, block_map.weight).flatten(1)


def _folded(encoder: Encoder, dtype: torch.dtype) -> list[Block]:
    """The blocks in their cheap form, made anew whenever a weight has changed."""
    parameters: list[Tensor] = list(encoder.blocks.parameters())
    # The norms are there for changes by way of `.data`, which leave no other trace.
    norms = torch.stack(torch._foreach_norm(parameters)).tolist()
    versions = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in parameters]
    state = (dtype, norms, versions)
    known = _folds.get(encoder)
    if known is None or known[0] != state:
        known = _folds[encoder] = state, [_fold(block, dtype) for block in encoder.blocks]
    return known[1]


_folds: weakref.WeakKeyDictionary[Encoder, tuple[object, list[Block]]] = weakref.WeakKeyDictionary()


def _fold(block: nn.Module, dtype: torch.dtype) -> Block:
    if isinstance(block, MLSTMBlock):
        return FoldedBlock(block, dtype)
    cast = block if dtype == torch.float32 else copy.deepcopy(block).to(dtype)
    return lambda tokens_BSD: cast(tokens_BSD.to(dtype)).float()
