"""The pre-norm transformer block of ViT, which PaSST, AudioMAE, SSAST and MW-MAE share.

Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021). Parameters have timm's names, as in the
published checkpoints. Shapes: B inputs, N tokens, D width, H heads of 64.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6
MLP_RATIO = 4


class Attention(nn.Module):
    """Softmax attention of every token to all others."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Tokens [B, N, D] -> [B, N, D]."""
        qkv = self.qkv(x_BND).unflatten(-1, (3, self.heads, -1))  # [B, N, 3, H, 64]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then an MLP with GELU, each after a LayerNorm and added to its input.

    Args:
        dim: D.
        heads: H.
        gelu: "none" for the exact GELU, or "tanh".
    """

    def __init__(self, dim: int, heads: int, gelu: str = "none") -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        layers = {
            "fc1": nn.Linear(dim, MLP_RATIO * dim),
            "gelu": nn.GELU(gelu),
            "fc2": nn.Linear(MLP_RATIO * dim, dim),
        }
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x_BND: Tensor) -> Tensor:
        """Tokens [B, N, D] -> [B, N, D]."""
        x_BND = x_BND + self.attn(self.norm1(x_BND))
        return x_BND + self.mlp(self.norm2(x_BND))


class PatchEmbedding(nn.Module):
    """Spectrogram [B, 1, height, width] -> patches [B, D, rows, columns]."""

    def __init__(self, dim: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, dim, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Spectrogram [B, 1, height, width] -> patches [B, D, rows, columns]."""
        return self.proj(x)
