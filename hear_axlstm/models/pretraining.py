"""The pretraining model: mask patches, encode, reconstruct them (paper section 2.2, equation 11).

Shapes: B windows, T mel frames, F mel bins, N patches, p values of a patch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hear_axlstm.config import ModelConfig
from hear_axlstm.models.encoder import Encoder, block_type
from hear_axlstm.models.patch_embed import apply_mask, patchify


class MaskedPatchModel(nn.Module):
    """Encoder, mask token and a one-hidden-layer head on every patch token.

    Its blocks use the backend's mixer (`MLSTMBlock.use_mixer`).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.encoder.enable_mixer()
        self.mask_token = nn.Parameter(torch.empty(config.dim, dtype=torch.float32))
        nn.init.normal_(self.mask_token, std=0.02)
        hidden = nn.Linear(config.dim, config.dim, dtype=torch.float32)
        out = nn.Linear(config.dim, config.patch_size, dtype=torch.float32)
        self.head = nn.Sequential(hidden, nn.GELU(), out)
        for layer in self.head:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, mel_BTF: Tensor, mask_BN: Tensor) -> Tensor:
        """Mean squared reconstruction error, a scalar in float32.

        It averages over the masked patches, or over all with ``loss_on="all"``.
        """
        target = patchify(mel_BTF, self.config.patch)
        squared = (self.reconstruct(mel_BTF, mask_BN).float() - target).square().mean(-1)
        if self.config.loss_on == "all":
            return squared.mean()
        return (squared * mask_BN).sum() / mask_BN.sum()

    def reconstruct(self, mel_BTF: Tensor, mask_BN: Tensor) -> Tensor:
        """Predict all patches ``[B, N, p]`` of standardized log-mel from the visible ones."""
        mask_token: Tensor = self.mask_token
        if self.config.mask_keeps_position:
            mask_token = mask_token + self.encoder.patches.positions
        tokens = apply_mask(self.encoder.patches(mel_BTF), mask_BN, mask_token)
        encoded = self.encoder.encode(tokens)
        return self.head(encoded[:, 1:])


def training_flops(config: ModelConfig) -> int:
    """Number of FLOPs in the forward and backward pass of one clip.

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

    The backward pass needs twice as many, except that the input's gradient is not computed. As is
    usual for model FLOPs utilization (MFU), only the operations of the model are counted, not
    recomputation to save memory or multiplication by zeros.
    """
    patches, dim = config.grid[0] * config.grid[1], config.dim
    embed = patches * config.patch_size * dim
    head = patches * (dim * dim + dim * config.patch_size)
    forward = embed + config.depth * block_type(config).flops(config, patches + 1) + head
    return 2 * (3 * forward - embed)
