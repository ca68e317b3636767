"""The encoder: patches -> class token + positions -> blocks -> norm (paper section 2.2).

Shapes: B windows, T mel frames, F mel bins, N patches, D model width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hear_axlstm.config import ModelConfig
from hear_axlstm.models.mlstm import MLSTMBlock
from hear_axlstm.models.patch_embed import PatchEmbedding
from hear_axlstm.models.transformer import TransformerBlock
from hear_axlstm.ops.tracing import is_traced

# A block is built from (config, index) and raises for an invalid config; it maps tokens [B, S, D]
# to tokens, and its static methods `inner_dim`, `causal` and `flops` describe a config.
BLOCKS: dict[str, Any] = {"axlstm": MLSTMBlock, "ssast": TransformerBlock}


def block_type(config: ModelConfig) -> Any:
    """Return the class of a model's blocks.

    Raises:
        ValueError: if ``config.architecture`` is not in `BLOCKS`.
    """
    if not isinstance(config.architecture, str) or config.architecture not in BLOCKS:
        raise ValueError(f"architecture={config.architecture!r}: choose one of {', '.join(BLOCKS)}")
    return BLOCKS[config.architecture]


class Encoder(nn.Module):
    """AxLSTM or SSAST encoder, selected by ``config.architecture``.

    Raises:
        ValueError: for an invalid config.
    """

    checkpoint_blocks = False
    """Gradient checkpointing: store only the tokens between blocks and recompute the rest."""
    fused: Any = None
    """Frozen weights packed for inference, see `hear_axlstm.embed.fused`.
    Training mode, another device or dtype, and loading weights drop them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        block = block_type(config)
        self.causal = block.causal(config)
        self.patches = PatchEmbedding(config)
        self.cls_token = nn.Parameter(torch.empty(config.dim, dtype=torch.float32))
        nn.init.normal_(self.cls_token, std=0.02)
        self.blocks = nn.ModuleList(block(config, index) for index in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6, dtype=torch.float32)

    def forward(self, mel_BTF: Tensor) -> Tensor:
        """Encode windows of standardized log-mel.

        Args:
            mel_BTF: ``[B, T, F]``, T a multiple of the patch's frames, at most
                ``config.window_frames``.

        Returns:
            ``[B, 1 + N, D]``: the class token, then the patches, time-major.

        Raises:
            RuntimeError: with gradients, while the encoder is fused.
        """
        return self.encode(self.patches(mel_BTF))

    def encode(self, tokens_BND: Tensor) -> Tensor:
        """Encode embedded patches ``[B, N, D]``, which may be masked."""
        self.refuse_gradients(tokens_BND)
        cls = self.cls_token.expand(tokens_BND.shape[0], 1, -1).to(tokens_BND.dtype)
        tokens = torch.cat([cls, tokens_BND], dim=1)
        for block in self.blocks:
            if self.checkpoint_blocks and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = block(tokens)
        return self.norm(tokens)

    def refuse_gradients(self, inputs: Tensor) -> None:
        """Raise if gradients are enabled while the encoder is fused: its weights are frozen."""
        if self.fused is not None and torch.is_grad_enabled() and not is_traced(inputs):
            raise RuntimeError(
                "the model is fused for inference, but gradients are enabled: embed within "
                "torch.no_grad(), or call model.unfuse() or model.train() before training"
            )

    def enable_mixer(self) -> None:
        """Make mLSTM blocks use the backend's mixer, see `MLSTMBlock.use_mixer`."""
        for block in self.blocks:
            if isinstance(block, MLSTMBlock):
                block.use_mixer = True

    def train(self, mode: bool = True) -> Encoder:
        """Set training mode as in `torch.nn.Module`; this drops fused weights."""
        self.fused = None if mode else self.fused
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:  # packed weights are for this processor alone
        return {**self.__dict__, "fused": None}

    def _apply(self, *arguments: Any, **options: Any) -> Any:  # .to(), .cuda(), .float(), ...
        before = self.cls_token.device, self.cls_token.dtype
        super()._apply(*arguments, **options)
        if before != (self.cls_token.device, self.cls_token.dtype):
            self.fused = None
        return self

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self.fused = None
        super()._load_from_state_dict(*arguments, **options)
