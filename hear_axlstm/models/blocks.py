"""The two residual blocks: mLSTM (AxLSTM) and transformer (the SSAST baseline).

Shapes: B windows, S tokens, D model width, E inner width, H heads, K = E / H head size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from hear_axlstm.config import ModelConfig
from hear_axlstm.models import mlstm
from hear_axlstm.ops import native
from hear_axlstm.ops.convolution import CausalConv
from hear_axlstm.ops.fuse import MAP_WIDTH, MixSettings, fold, parts
from hear_axlstm.ops.gating import gated
from hear_axlstm.ops.onednn import Linear, linear, matmul

DENSE_WIDTH = 64  # such blocks are multiplied together up to this width
NORM_EPS = 1e-5


class OffsetNorm(nn.Module):
    """LayerNorm without bias over the last axis; the weight is stored as an offset from 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., width]`` -> ``[..., width]``."""
        return nnf.layer_norm(x, x.shape[-1:], (1.0 + self.weight).to(x.dtype), eps=NORM_EPS)


class HeadNorm(OffsetNorm):
    """The same over each head by itself."""

    def forward(self, h_BSHK: Tensor) -> Tensor:
        """``[B, S, H, K]`` -> ``[B, S, H, K]``."""
        scale_HK = (1.0 + self.weight).view(h_BSHK.shape[-2:])
        return nnf.layer_norm(h_BSHK, h_BSHK.shape[-1:], eps=NORM_EPS) * scale_HK.to(h_BSHK.dtype)


class BlockDiagonalMap(nn.Module):
    """Linear map whose matrix is block-diagonal with 4 x 4 blocks, no bias."""

    def __init__(self, width: int, std: float) -> None:
        super().__init__()
        blocks = width // MAP_WIDTH
        self.weight = nn.Parameter(torch.empty(blocks, MAP_WIDTH, MAP_WIDTH).normal_(std=std))
        self.group = max(g for g in range(1, DENSE_WIDTH // MAP_WIDTH + 1) if blocks % g == 0)

    def forward(self, x_BSE: Tensor) -> Tensor:
        """``[B, S, E]`` -> ``[B, S, E]``."""
        # A few dense products beat many tiny ones: neighboring blocks share one padded matrix.
        blocks = self.weight.mT.unflatten(0, (-1, self.group))  # [groups, group, in 4, out 4]
        eye = torch.eye(self.group, dtype=blocks.dtype, device=blocks.device)
        dense = (blocks[:, :, :, None, :] * eye[:, None, :, None]).flatten(3).flatten(1, 2)
        groups = x_BSE.flatten(0, 1).unflatten(1, (len(dense), -1)).transpose(0, 1)
        return matmul(groups, dense).transpose(0, 1).reshape(x_BSE.shape)


class MLSTMBlock(nn.Module):
    """Pre-norm residual mLSTM block (paper Figure 1, as in Vision-LSTM).

    norm -> up-projection to x and z; q and k from the convolved x, v from x itself; the cell;
    head norm; + skip of the convolved x; gated by SiLU(z); down-projection.
    """

    def __init__(self, config: ModelConfig, reverse: bool) -> None:
        super().__init__()
        dim, inner, heads = config.dim, config.inner_dim, config.heads
        small = math.sqrt(2.0 / (5.0 * dim))
        self.heads, self.reverse = heads, reverse
        self.form: mlstm.Form = "auto"
        gate = config.input_gate
        self.settings = MixSettings(heads, inner // heads, gate, mlstm.EPS, NORM_EPS)
        self.norm = OffsetNorm(dim)
        self.up = Linear(dim, 2 * inner, bias=False)
        self.conv = CausalConv(inner)
        self.q, self.k, self.v = (BlockDiagonalMap(inner, small) for _ in "qkv")
        self.input_gate_map = Linear(3 * inner, heads)
        self.forget_gate_map = Linear(3 * inner, heads)
        self.head_norm = HeadNorm(inner)
        self.skip = nn.Parameter(torch.ones(inner))
        self.down = Linear(inner, dim, bias=False)
        nn.init.normal_(self.up.weight, std=small)
        nn.init.normal_(self.down.weight, std=2.0 / math.sqrt(dim))
        nn.init.zeros_(self.input_gate_map.weight)
        nn.init.zeros_(self.forget_gate_map.weight)
        nn.init.normal_(self.input_gate_map.bias, std=0.1)
        with torch.no_grad():
            self.forget_gate_map.bias.copy_(torch.linspace(3.0, 6.0, heads))
        self.made_of = parts(self)

    def forward(self, tokens_BSD: Tensor) -> Tensor:
        """``[B, S, D]`` -> ``[B, S, D]``."""
        normed = self.norm(tokens_BSD)
        mixed = self._mix(normed.flip(1)).flip(1) if self.reverse else self._mix(normed)
        return tokens_BSD + mixed

    def _mix(self, tokens_BSD: Tensor) -> Tensor:
        is_as_made = parts(self) == self.made_of  # else every part has to be called
        if is_as_made and self.form == "auto" and native.is_usable(tokens_BSD, self.settings):
            up, weights, down = fold(self, native.product_dtype(tokens_BSD))
            return linear(native.mix(linear(tokens_BSD, up), weights, self.settings), down)
        x, z = self.up(tokens_BSD).chunk(2, dim=-1)
        c = self.conv(x)
        q, k, v = self.q(c), self.k(c), self.v(x)
        log_i, log_f = self._log_gates(q, k, v) if is_as_made else self._called_gates(q, k, v)
        q, k, v, c, z = (t.unflatten(-1, (self.heads, -1)) for t in (q, k, v, c, z))
        h = mlstm.cell(q, k, v, log_i, log_f, self.form)
        skip = self.skip.view(self.heads, -1)
        if not is_as_made:
            return self.down(((self.head_norm(h) + c * skip) * nnf.silu(z)).flatten(2))
        scale = (1.0 + self.head_norm.weight).view(self.heads, -1)
        return self.down(gated(h, c, z, scale, skip, NORM_EPS).flatten(2))

    def _called_gates(self, *qkv: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of both gates, which read [q, k, v]."""
        joined = torch.cat(qkv, dim=-1)
        raw_i, raw_f = self.input_gate_map(joined), self.forget_gate_map(joined)
        return mlstm.log_gates(raw_i.float(), raw_f.float(), self.settings.input_gate)

    def _log_gates(self, *qkv: Tensor) -> tuple[Tensor, Tensor]:
        """The same from the gates' weights; the concatenation is never formed."""
        weight = torch.cat([self.input_gate_map.weight, self.forget_gate_map.weight])
        bias = torch.cat([self.input_gate_map.bias, self.forget_gate_map.bias])
        parts = [linear(t, w) for t, w in zip(qkv, weight.chunk(3, dim=1), strict=True)]
        gates = (parts[0] + parts[1] + parts[2]).float() + bias
        input_BSH, forget_BSH = gates.chunk(2, dim=-1)
        return mlstm.log_gates(input_BSH, forget_BSH, self.settings.input_gate)


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: softmax attention, then a GELU MLP (the SSAST baseline)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, hidden = config.dim, config.dim * config.mlp_ratio
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.qkv = Linear(dim, 3 * dim)
        self.projection = Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(Linear(dim, hidden), nn.GELU(), Linear(hidden, dim))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.made_of = parts(self)

    def forward(self, tokens_BSD: Tensor) -> Tensor:
        """``[B, S, D]`` -> ``[B, S, D]``."""
        tokens_BSD = tokens_BSD + self._attend(self.norm1(tokens_BSD))
        return tokens_BSD + self.mlp(self.norm2(tokens_BSD))

    def _attend(self, tokens_BSD: Tensor) -> Tensor:
        qkv = self.qkv(tokens_BSD).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, H, S, K]
        attended = nnf.scaled_dot_product_attention(q, k, v)
        return self.projection(attended.transpose(1, 2).flatten(2))
