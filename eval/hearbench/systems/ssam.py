"""SSAM, Self-Supervised Audio Mamba, behind the HEAR API.

Yadav and Tan, "Audio Mamba: Selective State Spaces for Self-Supervised Audio Representations"
(2024). A row of 5 D values is a timestamp embedding every 40 ms; the mean over rows is the scene
embedding. In the authors' release row t of a chunk holds the tokens t, 50 + t, ..., 200 + t, which
belong to five moments; `layout="time"` gives rows of the five bands of one moment instead.

Shapes: B chunks, T frames, L tokens, D width.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from hearbench.systems.parts import chunked_model
from hearbench.systems.parts.checkpoint import checkpoint_path, latest, read_checkpoint, state_in
from hearbench.systems.parts.chunked_model import BANDS, PATCH, STEPS, TOKENS, ChunkedModel
from hearbench.systems.parts.mamba import MambaMixer, mixer_sizes
from hearbench.systems.parts.vit import NORM_EPS, PatchEmbedding

get_scene_embeddings = chunked_model.get_scene_embeddings
get_timestamp_embeddings = chunked_model.get_timestamp_embeddings

Layout = Literal["release", "time"]
EXAMPLE = "ssam_base_200_16x4_4x256_fp16_r1"
UNUSED = r"mask_token$|pred\."
STATES_AT_ONCE = 1 << 16  # values: what the scan changes at each token stays in the cache


class SsamBlock(nn.Module):
    """The Mamba mixer after a LayerNorm, added to its input."""

    def __init__(self, dim: int, inner: int, states: int, rank: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mixer = MambaMixer(dim, inner, states, rank)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Tokens [B, L, D] -> [B, L, D]."""
        return x_BLD + self.mixer(self.norm(x_BLD))


class SsamEncoder(nn.Module):
    """Log-mel [B, 200, 80] -> rows [B, 50, 5 D]; parameters as published."""

    def __init__(self, dim: int, blocks: nn.Sequential, layout: Layout) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + TOKENS, dim))
        self.patch_embed = PatchEmbedding(dim, PATCH, PATCH)
        self.blocks = blocks
        self.encoder_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.layout = layout

    def forward(self, frames_BTF: Tensor) -> Tensor:
        """Log-mel [B, 200, 80] -> rows [B, 50, 5 D]."""
        patches = self.patch_embed(frames_BTF[:, None])  # [B, D, 50, 5]
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.encoder_norm(self.blocks(tokens + self.pos_embed))[:, 1:]
        if self.layout == "release":
            return tokens.unflatten(1, (BANDS, STEPS)).transpose(1, 2).flatten(2)
        return tokens.reshape(len(tokens), STEPS, -1)


def load_model(model_file_path: str = "", *, layout: Layout = "release") -> ChunkedModel:
    """Load the newest checkpoint of a run.

    Args:
        model_file_path: a run's folder, its folder `checkpoints`, or one `checkpoint-N.pth`.
        layout: how tokens make rows; "release" as in the authors' code.

    Raises:
        CheckpointError: if it is missing, damaged or of another kind.
        ValueError: for another `layout`.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"layout={layout!r}: choose one of {get_args(Layout)}")
    path = checkpoint_path(model_file_path, f"the folder {EXAMPLE}")
    if path.is_dir():
        inner = path / "checkpoints"
        path = latest(inner if inner.is_dir() else path, "checkpoint-")
    checkpoint = state_in(read_checkpoint(path).get("model"), path)
    dim = checkpoint.shape("patch_embed.proj.weight", 4)[0]
    depth = checkpoint.count_blocks("blocks.")
    sizes = mixer_sizes(checkpoint, "blocks.0.mixer.")
    with torch.device("meta"):
        blocks = nn.Sequential(*(SsamBlock(dim, *sizes) for _ in range(depth)))
        encoder = SsamEncoder(dim, blocks, layout)
    checkpoint.fill(encoder, UNUSED)
    at_once = max(1, STATES_AT_ONCE // (sizes[0] * sizes[1]))
    return ChunkedModel(encoder, dim, lambda frames: frames, at_once).eval()
