"""Layers of the blocks; parameters are float32, whatever torch's default is.

Shapes: B windows, S tokens, E channels, H heads, K = E / H head size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from hear_axlstm.ops.contract import CONV_WIDTH, MAP_WIDTH, NORM_EPS
from hear_axlstm.ops.matmul import linear, matmul
from hear_axlstm.ops.torch_impl import convolved_silu, gated_norm

DENSE_WIDTH = 64  # diagonal blocks are merged into dense matrices up to this width


class Linear(nn.Linear):
    """`torch.nn.Linear` that uses the fastest available matrix product."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., inputs]`` -> ``[..., outputs]``."""
        return linear(x, self.weight, self.bias)


class LayerNorm(nn.Module):
    """LayerNorm without bias over the last axis; its weight is stored as an offset from 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., width]`` -> ``[..., width]``."""
        return nnf.layer_norm(x, x.shape[-1:], (1.0 + self.weight).to(x.dtype), eps=NORM_EPS)


class BlockDiagonalLinear(nn.Module):
    """Linear layer without bias whose matrix is block-diagonal with 4 x 4 blocks."""

    def __init__(self, width: int, std: float) -> None:
        super().__init__()
        blocks = torch.empty(width // MAP_WIDTH, MAP_WIDTH, MAP_WIDTH, dtype=torch.float32)
        self.weight = nn.Parameter(blocks.normal_(std=std))
        self.group = max(g for g in range(1, DENSE_WIDTH // MAP_WIDTH + 1) if len(blocks) % g == 0)

    def forward(self, x_BSE: Tensor) -> Tensor:
        """``[B, S, E]`` -> ``[B, S, E]``."""
        # A few dense products beat many tiny ones: neighboring blocks share one padded matrix.
        blocks = self.weight.mT.unflatten(0, (-1, self.group))  # [groups, group, in 4, out 4]
        eye = torch.eye(self.group, dtype=blocks.dtype, device=blocks.device)
        dense = (blocks[:, :, :, None, :] * eye[:, None, :, None]).flatten(3).flatten(1, 2)
        groups = x_BSE.flatten(0, 1).unflatten(1, (len(dense), -1)).transpose(0, 1)
        return matmul(groups, dense).transpose(0, 1).reshape(x_BSE.shape)


class CausalConv(nn.Module):
    """Depthwise causal convolution over four tokens, followed by SiLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(CONV_WIDTH)
        self.weight = nn.Parameter(torch.empty(CONV_WIDTH, channels, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(channels, dtype=torch.float32))
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x_BSE: Tensor) -> Tensor:
        """``[B, S, E]`` -> ``[B, S, E]``; ``weight[-1]`` applies to the current token."""
        return convolved_silu(x_BSE, self.weight, self.bias)


class Gate(Linear):
    """Linear layer on [q, k, v] that computes one gate's pre-activation per head."""

    def __init__(self, inner: int, heads: int) -> None:
        super().__init__(3 * inner, heads)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # type: ignore[override]
        """Three ``[B, S, E]`` -> float32 ``[B, S, H]``; their concatenation is never formed."""
        of_q, of_k, of_v = self.weight.chunk(3, dim=1)
        total = linear(q, of_q) + linear(k, of_k) + linear(v, of_v)
        return total.float() + self.bias


class GatedHeadNorm(nn.Module):
    """(norm(h) + skip c) SiLU(z), normalized per head; the weight is an offset from 1."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inner, dtype=torch.float32))

    def forward(self, h: Tensor, c: Tensor, z: Tensor, skip: Tensor) -> Tensor:
        """h, c and z ``[B, S, H, K]``, skip ``[E]`` -> ``[B, S, H, K]``."""
        scale_HK, skip_HK = ((1.0 + self.weight).view(h.shape[-2:]), skip.view(h.shape[-2:]))
        return gated_norm(h, c, z, scale_HK, skip_HK)
