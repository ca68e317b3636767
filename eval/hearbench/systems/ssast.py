"""SSAST of Gong et al. behind the HEAR API.

Gong et al., "SSAST: Self-Supervised Audio Spectrogram Transformer" (2022); the table's system is
`SSAST-Base-Patch-400.pth`. Its authors publish no HEAR module. As in their downstream code, patches
overlap (stride 10; 1 frame for the models of whole frames), positions are resized to the clip's
length, and frames are normalized by AudioSet's statistics. A scene embedding is the mean over the
patch tokens, a timestamp embedding that over one column of them. Clips of more than 1024 frames
(10.24 s) are cut into chunks of that length, the last of which may be shorter.

Shapes: B clips, n samples, T frames, C chunks of a clip, D width, f x t patches.
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hearbench.systems.parts import fbank
from hearbench.systems.parts.checkpoint import (
    Checkpoint,
    CheckpointError,
    checkpoint_path,
    read_checkpoint,
    state_in,
)
from hearbench.systems.parts.chunks import TOKENS_AT_ONCE, as_batch, in_batches
from hearbench.systems.parts.fbank import N_MELS, patch_centers
from hearbench.systems.parts.vit import NORM_EPS, Block, PatchEmbedding

EXAMPLE = "SSAST-Base-Patch-400.pth"
CHUNK = 1_024  # frames
STRIDES = {(16, 16): (10, 10), (N_MELS, 2): (N_MELS, 1)}
"""Patch (bins, frames) -> stride in the authors' downstream code."""
PREFIX = "module.v."
UNUSED = r"module\.(mask_embed$|cpredlayer\.|gpredlayer\.|p_input_[ft]dim$|v\.head(_dist)?\.)"


class SsastTransformer(nn.Module):
    """Log-mel [B, T, 128] -> mean over the bands of each column [B, t, D]."""

    def __init__(
        self, dim: int, depth: int, n_heads: int, patch: tuple[int, int], positions: int
    ) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.dist_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 2 + positions, dim))
        self.patch_embed = PatchEmbedding(dim, patch, STRIDES[patch])
        self.blocks = nn.Sequential(*(Block(dim, n_heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.stored_rows = N_MELS // patch[0]

    def forward(self, frames_BTF: Tensor) -> Tensor:
        """Log-mel [B, T, 128] -> columns [B, t, D]."""
        patches = self.patch_embed(frames_BTF.transpose(1, 2)[:, None])  # [B, D, f, t]
        grid = patches.shape[2:]
        tokens = patches.flatten(2).transpose(1, 2)
        first = torch.cat([self.cls_token, self.dist_token], dim=1).expand(len(tokens), -1, -1)
        tokens = torch.cat([first, tokens], dim=1) + self.positions(*grid)
        tokens = self.norm(self.blocks(tokens))
        return tokens[:, 2:].unflatten(1, grid).mean(dim=1)

    def positions(self, rows: int, columns: int) -> Tensor:
        """The positions of the two class tokens and of `rows` x `columns` patches [1, N, D].

        The middle columns of the stored grid are used, or all are interpolated if more are needed.
        """
        grid = self.pos_embed[:, 2:].transpose(1, 2).unflatten(2, (self.stored_rows, -1))
        stored = grid.shape[-1]
        if columns < stored:
            start = stored // 2 - columns // 2
            grid = grid[..., start : start + columns]
        # has no effect where the sizes are equal
        grid = F.interpolate(grid, (rows, columns), mode="bilinear", align_corners=False)
        return torch.cat([self.pos_embed[:, :2], grid.flatten(2).transpose(1, 2)], dim=1)


class Ssast(nn.Module):
    """Waveform [B, n] at 16 kHz -> columns of patches of every chunk."""

    sample_rate = fbank.SAMPLE_RATE

    def __init__(self, transformer: SsastTransformer) -> None:
        super().__init__()
        self.fbank = fbank.KaldiFbank(fbank.HANN)
        self.transformer = transformer
        convolution = transformer.patch_embed.proj
        self.patch, self.stride = convolution.kernel_size[1], convolution.stride[1]  # frames
        self.rows = (N_MELS - convolution.kernel_size[0]) // convolution.stride[0] + 1
        self.scene_embedding_size = self.timestamp_embedding_size = convolution.out_channels

    def forward(self, audio_Bn: Tensor) -> tuple[Tensor, Tensor]:
        """Columns [B, t, D] of the whole clip and the frame at which each begins [t]."""
        frames = (self.fbank(audio_Bn) - fbank.MEAN) / (2 * fbank.DEVIATION)
        count = frames.shape[1]
        whole = (count - 1) // CHUNK * CHUNK  # the last chunk is never empty
        parts, starts = [], []
        if whole:
            chunks = frames[:, :whole].unflatten(1, (-1, CHUNK))
            columns = self._columns(chunks)  # [B, C, t, D]
            begin = torch.arange(0, whole, CHUNK, device=frames.device)[:, None]
            starts.append((begin + self._starts(columns)).flatten())
            parts.append(columns.flatten(1, 2))
        rest = F.pad(frames[:, whole:], (0, 0, 0, max(0, self.patch - (count - whole))))
        columns = self._columns(rest[:, None])
        starts.append(whole + self._starts(columns))
        return torch.cat([*parts, columns[:, 0]], dim=1), torch.cat(starts)

    def _columns(self, chunks: Tensor) -> Tensor:
        """Chunks [B, C, frames, 128] -> columns [B, C, t, D]."""
        columns = (chunks.shape[2] - self.patch) // self.stride + 1
        return in_batches(self.transformer, chunks, TOKENS_AT_ONCE // (2 + self.rows * columns))

    def _starts(self, columns: Tensor) -> Tensor:
        return torch.arange(columns.shape[2], device=columns.device) * self.stride


def load_model(model_file_path: str = "") -> Ssast:
    """Load an official pretrained checkpoint, of patches or of frames.

    Args:
        model_file_path: e.g. `SSAST-Base-Patch-400.pth`.

    Raises:
        CheckpointError: if it is missing, damaged or of another kind.
    """
    path = checkpoint_path(model_file_path, EXAMPLE)
    checkpoint = state_in(read_checkpoint(path), path)
    dim, _, *kernel = checkpoint.shape(f"{PREFIX}patch_embed.proj.weight", 4)
    patch = (kernel[0], kernel[1])
    if patch not in STRIDES:
        raise CheckpointError(
            f"{path} has patches of {patch[0]} bins x {patch[1]} frames: an SSAST has "
            f"{' or '.join(f'{f} x {t}' for f, t in STRIDES)}"
        )
    bins = checkpoint.tensors.get("module.p_input_fdim")
    if bins is not None and (bins.numel() != 1 or int(bins) != N_MELS):
        raise CheckpointError(f"{path}: p_input_fdim is {bins.tolist()}, not {N_MELS} bins")
    positions = checkpoint.shape(f"{PREFIX}pos_embed", 3)[1] - 2
    if positions < 1 or positions % (N_MELS // patch[0]):
        raise CheckpointError(
            f"{path}: {positions} positions do not fit patches of {patch[0]} bins"
        )
    depth, n_heads = checkpoint.count_blocks(f"{PREFIX}blocks."), checkpoint.heads(dim)
    with torch.device("meta"):
        transformer = SsastTransformer(dim, depth, n_heads, patch, positions)
    needed = {n: t for n, t in checkpoint.tensors.items() if not re.match(UNUSED, n)}
    named = {name.removeprefix(PREFIX): tensor for name, tensor in needed.items()}
    Checkpoint(path, named).fill(transformer)
    return Ssast(transformer).eval()


@torch.no_grad()
def get_scene_embeddings(audio: Tensor, model: Ssast) -> Tensor:
    """Waveform [B, n] -> embeddings [B, D], the mean over all patch tokens."""
    return model(as_batch(audio))[0].mean(dim=1)


@torch.no_grad()
def get_timestamp_embeddings(audio: Tensor, model: Ssast) -> tuple[Tensor, Tensor]:
    """Waveform [B, n] -> embeddings [B, t, D], one per patch column, and their centers in ms."""
    embeddings, starts = model(as_batch(audio))
    center = patch_centers(1, model.patch, model.stride, audio.device)
    return embeddings, (center + starts * 10.0).expand(len(audio), -1)
