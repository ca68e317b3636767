"""The pretraining model: hide patches, encode, reconstruct them (paper section 2.2, equation 11).

Shapes: B windows, T mel frames, F mel bins, N patches, p values of a patch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hear_axlstm.config import ModelConfig
from hear_axlstm.models.encoder import Encoder
from hear_axlstm.models.patch_embed import apply_mask, patchify


class MaskedPatchModel(nn.Module):
    """Encoder, mask token and a one-hidden-layer head on every patch token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.mask_token = nn.Parameter(torch.empty(config.dim).normal_(std=0.02))
        self.head = nn.Sequential(
            nn.Linear(config.dim, config.dim), nn.GELU(), nn.Linear(config.dim, config.patch_size)
        )
        for layer in self.head:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, mel_BTF: Tensor, mask_BN: Tensor) -> Tensor:
        """Mean squared reconstruction error, a scalar in float32.

        It averages over the hidden patches, or over all with ``loss_on="all"``.
        """
        target = patchify(mel_BTF, self.config.patch)
        squared = (self.reconstruct(mel_BTF, mask_BN).float() - target).square().mean(-1)
        if self.config.loss_on == "all":
            return squared.mean()
        return (squared * mask_BN).sum() / mask_BN.sum()

    def reconstruct(self, mel_BTF: Tensor, mask_BN: Tensor) -> Tensor:
        """Predicted patches ``[B, N, p]`` of standardized log-mel, from what the mask leaves."""
        mask_token: Tensor = self.mask_token
        if self.config.mask_keeps_position:
            mask_token = mask_token + self.encoder.patches.positions
        tokens = apply_mask(self.encoder.patches(mel_BTF), mask_BN, mask_token)
        encoded = self.encoder.encode(tokens)
        return self.head(encoded[:, 1:])
