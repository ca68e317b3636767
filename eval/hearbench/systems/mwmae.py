"""MW-MAE, and its authors' plain MAE, behind the HEAR API.

Yadav et al., "Masked Autoencoders with Multi-Window Local-Global Attention Are Better Audio
Learners" (2024): the windows are in the decoder, which embeddings do not need. A row of 5 D
values, the five bands of a moment, is a timestamp embedding every 40 ms; the mean over rows is the
scene embedding. It computes in float32; the authors' configuration uses bfloat16.

Shapes: B chunks, T frames, N tokens, D width.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from hearbench.systems.parts import chunked_model
from hearbench.systems.parts.checkpoint import Checkpoint, CheckpointError, checkpoint_path, latest
from hearbench.systems.parts.chunked_model import CHUNK, PATCH, STEPS, TOKENS, ChunkedModel
from hearbench.systems.parts.chunks import TOKENS_AT_ONCE, reflected_to
from hearbench.systems.parts.flax_checkpoint import read_params
from hearbench.systems.parts.vit import NORM_EPS, Block, PatchEmbedding

get_scene_embeddings = chunked_model.get_scene_embeddings
get_timestamp_embeddings = chunked_model.get_timestamp_embeddings

EXAMPLE = "mwmae_base_200_4x16_8x128_default_bfloat16_run1"
UNUSED = r"decoder_|mask_token$"
IN_BLOCK = {
    "LayerNorm_0": "norm1",
    "Attention_0/Dense_0": "attn.qkv",
    "Attention_0/Dense_1": "attn.proj",
    "LayerNorm_1": "norm2",
    "Mlp_0/Dense_0": "mlp.fc1",
    "Mlp_0/Dense_1": "mlp.fc2",
}
"""Flax's name of a module in a block -> ours."""


class MwMaeEncoder(nn.Module):
    """Log-mel [B, 200, 80] -> rows [B, 50, 5 D]."""

    def __init__(self, dim: int, depth: int, n_heads: int, with_class_token: bool) -> None:
        super().__init__()
        if with_class_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.skipped = int(with_class_token)
        self.pos_embed = nn.Parameter(torch.empty(1, TOKENS + self.skipped, dim))
        self.patch_embed = PatchEmbedding(dim, PATCH, PATCH)
        self.blocks = nn.Sequential(*(Block(dim, n_heads, gelu="tanh") for _ in range(depth)))
        self.encoder_norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, frames_BTF: Tensor) -> Tensor:
        """Log-mel [B, 200, 80] -> rows [B, 50, 5 D], lowest band first."""
        tokens = self.patch_embed(frames_BTF[:, None]).flatten(2).transpose(1, 2)
        if self.skipped:
            tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.encoder_norm(self.blocks(tokens + self.pos_embed))
        return tokens[:, self.skipped :].reshape(len(tokens), STEPS, -1)


def load_model(model_file_path: str = "") -> ChunkedModel:
    """Load the newest checkpoint of a run.

    Args:
        model_file_path: a run's folder, or one `checkpoint_STEP` (a file, or orbax's folder).

    Raises:
        CheckpointError: if it is missing, damaged or of another kind.
    """
    path = checkpoint_path(model_file_path, f"the folder {EXAMPLE}")
    if path.is_dir() and not (path / "checkpoint").is_file():
        path = latest(path, "checkpoint_")
    if path.is_dir():
        path = path / "checkpoint"
    tensors = {_torch_name(n): _torch_order(n, t, path) for n, t in read_params(path).items()}
    checkpoint = Checkpoint(path, tensors)
    dim = checkpoint.shape("patch_embed.proj.weight", 4)[0]
    depth, n_heads = checkpoint.count_blocks("blocks."), checkpoint.heads(dim)
    with torch.device("meta"):
        encoder = MwMaeEncoder(dim, depth, n_heads, "cls_token" in tensors)
    checkpoint.fill(encoder, UNUSED)
    at_once = TOKENS_AT_ONCE // TOKENS
    return ChunkedModel(encoder, dim, lambda frames: reflected_to(frames, CHUNK), at_once).eval()


def _torch_name(name: str) -> str:
    """E.g. `encoder_block_03/Mlp_0/Dense_0/kernel` -> `blocks.3.mlp.fc1.weight`."""
    module, _, leaf = name.rpartition("/")
    block, _, inner = module.partition("/")
    if block.startswith("encoder_block_") and block[14:].isdigit() and inner in IN_BLOCK:
        module = f"blocks.{int(block[14:])}.{IN_BLOCK[inner]}"
    leaf = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
    return f"{module.replace('/', '.')}.{leaf}" if module else leaf


def _torch_order(name: str, tensor: Tensor, path: Path) -> Tensor:
    """Kernels [in, out] -> [out, in], [height, width, in, out] -> [out, in, height, width]."""
    if not name.endswith("/kernel"):
        return tensor
    if tensor.dim() == 4:
        return tensor.permute(3, 2, 0, 1)
    if tensor.dim() != 2:
        raise CheckpointError(f"{path}: {name!r} has shape {list(tensor.shape)}, unlike any layer")
    return tensor.T
