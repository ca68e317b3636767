"""The encoder: patches -> class token + positions -> blocks -> norm (paper section 2.2).

Shapes: B windows, T mel frames, F mel bins, N patches, D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hear_axlstm.config import ModelConfig
from hear_axlstm.models.blocks import MLSTMBlock, TransformerBlock
from hear_axlstm.models.patch_embed import PatchEmbedding


class Encoder(nn.Module):
    """AxLSTM or SSAST, by ``config.architecture``."""

    checkpoint_blocks = False
    """Keep only the tokens between blocks for the backward pass, and compute the rest again."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = PatchEmbedding(config)
        self.cls_token = nn.Parameter(torch.empty(config.dim).normal_(std=0.02))
        self.blocks = nn.ModuleList(_block(config, index) for index in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)

    def forward(self, mel_BTF: Tensor) -> Tensor:
        """Encode windows of standardized log-mel.

        Args:
            mel_BTF: ``[B, T, F]``, T a multiple of the patch's frames, at most
                ``config.window_frames``.

        Returns:
            ``[B, 1 + N, D]``: the class token, then the patches, time-major.
        """
        return self.encode(self.patches(mel_BTF))

    def encode(self, tokens_BND: Tensor) -> Tensor:
        """Encode embedded patches ``[B, N, D]``, some of them perhaps masked."""
        cls = self.cls_token.expand(tokens_BND.shape[0], 1, -1).to(tokens_BND.dtype)
        tokens = torch.cat([cls, tokens_BND], dim=1)
        for block in self.blocks:
            if self.checkpoint_blocks and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = block(tokens)
        return self.norm(tokens)


def _block(config: ModelConfig, index: int) -> nn.Module:
    if config.architecture == "ssast":
        return TransformerBlock(config)
    return MLSTMBlock(config, reverse=config.flip and index % 2 == 1)
