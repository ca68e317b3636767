"""Floating-point operations of training, counted from a model's settings."""

from __future__ import annotations

from hear_axlstm.config import ModelConfig
from hear_axlstm.models.blocks import MAP_WIDTH


def training_flops(config: ModelConfig) -> int:
    """FLOPs of one clip's forward and backward pass.

    A multiply-add is two FLOPs; matrix products only, as usual. With N patches, S = N + 1 tokens
    (the class token), D the width, E the inner width, H the heads, p the values of a patch, the
    forward pass has these multiply-adds:

        patches        N p D
        mLSTM block    S 3 D E           up- (D to 2 E) and down-projection
                       S 3 E 4           block-diagonal q, k, v
                       S 3 E 2 H         both gates
                       S (S + 1) E       q k^T and its product with v, over the causal half
        transformer    S (4 + 2 r) D^2   q, k, v, output and an MLP r times as wide
                       2 S^2 D           q k^T and its product with v
        head           N (D^2 + D p)

    The backward pass needs twice as many, without the gradient of the input. As usual for model
    FLOPs utilization (MFU), recomputation and products with zeros are not counted.
    """
    patches, dim = config.grid[0] * config.grid[1], config.dim
    tokens = patches + 1
    embed = patches * config.patch_size * dim
    head = patches * (dim * dim + dim * config.patch_size)
    block = _mlstm_block if config.architecture == "axlstm" else _transformer_block
    forward = embed + config.depth * block(config, tokens) + head
    return 2 * (3 * forward - embed)


def _mlstm_block(config: ModelConfig, tokens: int) -> int:
    inner = config.inner_dim
    projections = 3 * config.dim * inner
    maps = 3 * inner * MAP_WIDTH
    gates = 3 * inner * 2 * config.heads
    return tokens * (projections + maps + gates) + tokens * (tokens + 1) * inner


def _transformer_block(config: ModelConfig, tokens: int) -> int:
    dense = (4 + 2 * config.mlp_ratio) * config.dim**2
    return tokens * dense + 2 * tokens**2 * config.dim
