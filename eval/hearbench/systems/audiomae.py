"""AudioMAE behind the HEAR API.

Huang et al., "Masked Autoencoders that Listen" (2022). Its authors publish no HEAR module. Here a
clip is cut into chunks of 1024 frames (10.24 s), the last one padded as in their code. A scene
embedding is the mean over the patch tokens of all chunks, padding included, as in the authors' own
fine-tuning; `pool="audio"` excludes the padding, which matters for short clips. A timestamp
embedding is the mean over the 8 bands of one moment. The weights are under CC BY-NC 4.0.

Shapes: B clips, n samples, T frames, C chunks of a clip, R moments, N tokens, D width.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from hearbench.systems.parts import fbank
from hearbench.systems.parts.checkpoint import (
    CheckpointError,
    checkpoint_path,
    read_checkpoint,
    state_in,
)
from hearbench.systems.parts.chunks import TOKENS_AT_ONCE, as_batch, in_batches, in_chunks
from hearbench.systems.parts.fbank import patch_centers
from hearbench.systems.parts.vit import NORM_EPS, Block, PatchEmbedding

Pool = Literal["all", "audio"]
EXAMPLE = "pretrained.pth"
PATCH = 16
CHUNK = 1_024  # frames
STRIDES = {1 + 64 * 8: 16, 1 + 101 * 12: 10}
"""Stored positions, class token included -> stride of the patches."""
UNUSED = r"mask_token$|decoder_|head\."


class AudioMaeEncoder(nn.Module):
    """Log-mel [B, 1024, 128] -> patch tokens [B, R, bands, D]; parameters as published."""

    def __init__(self, dim: int, depth: int, n_heads: int, positions: int, finetuned: bool) -> None:
        super().__init__()
        stride = STRIDES[positions]
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, positions, dim))
        self.patch_embed = PatchEmbedding(dim, (PATCH, PATCH), (stride, stride))
        self.blocks = nn.Sequential(*(Block(dim, n_heads) for _ in range(depth)))
        # Pretrained weights end in a norm of every token, fine-tuned ones in a norm of their mean.
        norm: nn.Module = nn.LayerNorm(dim, eps=NORM_EPS)
        nothing: nn.Module = nn.Identity()
        self.norm, self.fc_norm = (nothing, norm) if finetuned else (norm, nothing)

    def forward(self, frames_BTF: Tensor) -> Tensor:
        """Log-mel [B, 1024, 128] -> patch tokens [B, R, bands, D]."""
        patches = self.patch_embed(frames_BTF[:, None])  # [B, D, R, bands]
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.norm(self.blocks(tokens + self.pos_embed))
        return tokens[:, 1:].unflatten(1, patches.shape[2:])


class AudioMae(nn.Module):
    """Waveform [B, n] at 16 kHz -> the mean over the bands of each moment [B, C, R, D]."""

    sample_rate = fbank.SAMPLE_RATE

    def __init__(self, encoder: AudioMaeEncoder, pool: Pool) -> None:
        super().__init__()
        self.fbank = fbank.KaldiFbank(fbank.HANN)
        self.encoder = encoder
        self.pool = pool
        self.stride: int = encoder.patch_embed.proj.stride[0]
        self.scene_embedding_size = self.timestamp_embedding_size = encoder.pos_embed.shape[-1]

    def forward(self, audio_Bn: Tensor) -> tuple[Tensor, int]:
        """Moments [B, C, R, D], and how many of the C R moments are not padding (at least one)."""
        frames = self.fbank(audio_Bn - audio_Bn.mean(dim=-1, keepdim=True))
        left = (frames.shape[1] - 1) % CHUNK + 1
        chunks = (in_chunks(frames, CHUNK) - fbank.MEAN) / (2 * fbank.DEVIATION)
        at_once = TOKENS_AT_ONCE // self.encoder.pos_embed.shape[1]
        moments = in_batches(lambda x: self.encoder(x).mean(dim=2), chunks, at_once)
        full = (moments.shape[1] - 1) * moments.shape[2]
        return moments, full + max(0, left - PATCH) // self.stride + 1


def load_model(model_file_path: str = "", *, pool: Pool = "all") -> AudioMae:
    """Load an official checkpoint, pretrained (the table's) or fine-tuned.

    Args:
        model_file_path: `pretrained.pth` or `finetuned.pth`.
        pool: whether a scene embedding averages "all" tokens, or those of "audio" without padding.

    Raises:
        CheckpointError: if it is missing, damaged or of another kind.
        ValueError: for another `pool`.
    """
    if pool not in get_args(Pool):
        raise ValueError(f"pool={pool!r}: choose one of {get_args(Pool)}")
    path = checkpoint_path(model_file_path, EXAMPLE)
    checkpoint = state_in(read_checkpoint(path).get("model"), path)
    _, positions, dim = checkpoint.shape("pos_embed", 3)
    if positions not in STRIDES:
        raise CheckpointError(
            f"{path} has {positions} positions: an AudioMAE has {' or '.join(map(str, STRIDES))}"
        )
    depth, n_heads = checkpoint.count_blocks("blocks."), checkpoint.heads(dim)
    finetuned = "fc_norm.weight" in checkpoint.tensors
    with torch.device("meta"):
        encoder = AudioMaeEncoder(dim, depth, n_heads, positions, finetuned)
    checkpoint.fill(encoder, UNUSED)
    return AudioMae(encoder, pool).eval()


@torch.no_grad()
def get_scene_embeddings(audio: Tensor, model: AudioMae) -> Tensor:
    """Waveform [B, n] -> embeddings [B, D]."""
    moments, of_audio = model(as_batch(audio))
    if model.pool == "audio":
        return model.encoder.fc_norm(moments.flatten(1, 2)[:, :of_audio].mean(dim=1))
    return model.encoder.fc_norm(moments.mean(dim=2)).mean(dim=1)


@torch.no_grad()
def get_timestamp_embeddings(audio: Tensor, model: AudioMae) -> tuple[Tensor, Tensor]:
    """Waveform [B, n] -> embeddings of 175 ms each [B, C R, D] and their centers in ms."""
    moments, of_audio = model(as_batch(audio))
    centers = patch_centers(moments.shape[2], PATCH, model.stride, audio.device)
    starts = torch.arange(moments.shape[1], device=audio.device) * (CHUNK * 10.0)
    times = (starts[:, None] + centers).flatten()[:of_audio]
    embeddings = model.encoder.fc_norm(moments.flatten(1, 2)[:, :of_audio])
    return embeddings, times.expand(len(audio), -1)
