"""The transformer block of the SSAST baseline.

Shapes: B windows, S tokens, D model width, H heads, K = D / H head size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from hear_axlstm.config import ModelConfig
from hear_axlstm.models.layers import Linear


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: softmax attention, then a GELU MLP.

    Args:
        config: settings of the model.
        index: index of the block; not used, as all blocks are alike.

    Raises:
        ValueError: if the width does not divide into the heads.
    """

    def __init__(self, config: ModelConfig, index: int = 0) -> None:
        super().__init__()
        dim, hidden = config.dim, config.dim * config.mlp_ratio
        if dim % (4 * config.heads):
            raise ValueError(
                f"dim={dim} must be a multiple of 4 x {config.heads} heads: change dim or heads"
            )
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, dtype=torch.float32)
        self.qkv = Linear(dim, 3 * dim)
        self.projection = Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, dtype=torch.float32)
        self.mlp = nn.Sequential(Linear(dim, hidden), nn.GELU(), Linear(hidden, dim))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, tokens_BSD: Tensor) -> Tensor:
        """``[B, S, D]`` -> ``[B, S, D]``."""
        tokens_BSD = tokens_BSD + self._attend(self.norm1(tokens_BSD))
        return tokens_BSD + self.mlp(self.norm2(tokens_BSD))

    def _attend(self, tokens_BSD: Tensor) -> Tensor:
        qkv = self.qkv(tokens_BSD).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, H, S, K]
        attended = nnf.scaled_dot_product_attention(q, k, v)
        return self.projection(attended.transpose(1, 2).flatten(2))

    @staticmethod
    def inner_dim(config: ModelConfig) -> int:
        """Width inside the block, D."""
        return config.dim

    @staticmethod
    def causal(config: ModelConfig) -> bool:
        """Whether no token sees the tokens after it."""
        return False

    @staticmethod
    def flops(config: ModelConfig, tokens: int) -> int:
        """Multiply-adds of matrix products in the forward pass of one window."""
        dense = (4 + 2 * config.mlp_ratio) * config.dim**2
        return tokens * dense + 2 * tokens**2 * config.dim
