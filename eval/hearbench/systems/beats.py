"""BEATs behind the HEAR API.

Chen et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers" (2023); the table's system is
`BEATs_iter3.pt`. Its authors publish no HEAR module. Here a scene embedding is the mean over all
tokens of the last layer, and a timestamp embedding the mean over the 8 bands of one moment: 768
values every 160 ms. Attention spans the whole clip, however long it is.

Shapes: B clips, n samples, T frames, N tokens, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hearbench.systems.parts import fbank
from hearbench.systems.parts.beats_attention import Attention, relative_bias
from hearbench.systems.parts.checkpoint import (
    Checkpoint,
    CheckpointError,
    checkpoint_path,
    read_checkpoint,
    state_in,
)
from hearbench.systems.parts.chunks import TOKENS_AT_ONCE, as_batch, in_batches
from hearbench.systems.parts.fbank import patch_centers

EXAMPLE = "BEATs_iter3.pt"
PATCH = 16
BANDS = fbank.N_MELS // PATCH
SHORTEST = fbank.WINDOW + (PATCH - 1) * fbank.HOP  # samples of one patch
MEAN, DEVIATION = 15.41663, 6.55582  # of AudioSet's frames
UNUSED = r"predictor\."
KIND = {
    "layer_norm_first": False,
    "deep_norm": True,
    "conv_bias": False,
    "activation_fn": "gelu",
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "input_patch_size": PATCH,
}
"""Settings of the supported architecture."""


class Layer(nn.Module):
    """Post-norm attention and MLP whose inputs are scaled up by `alpha` (deep norm)."""

    def __init__(self, dim: int, hidden: int, n_heads: int, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.self_attn = Attention(dim, n_heads)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(self, x_BND: Tensor, bias: Tensor) -> Tensor:
        """Tokens [B, N, D] and the relative bias by distance [H, 2N - 1] -> [B, N, D]."""
        x_BND = self.self_attn_layer_norm(self.alpha * x_BND + self.self_attn(x_BND, bias))
        parts = x_BND.split(max(1, TOKENS_AT_ONCE // len(x_BND)), dim=1)
        return torch.cat([self._mlp(part) for part in parts], dim=1)

    def _mlp(self, x: Tensor) -> Tensor:
        return self.final_layer_norm(self.alpha * x + self.fc2(F.gelu(self.fc1(x))))


class Encoder(nn.Module):
    """Tokens [B, N, D] -> positional convolution -> layers -> tokens [B, N, D]."""

    def __init__(self, dim: int, hidden: int, depth: int, n_heads: int, cfg: Mapping[str, Any]):
        super().__init__()
        kernel = cfg["conv_pos"]
        convolution = nn.Conv1d(
            dim, dim, kernel, padding=kernel // 2, groups=cfg["conv_pos_groups"]
        )
        self.pos_conv = nn.Sequential(convolution)
        self.layer_norm = nn.LayerNorm(dim)
        alpha = (2 * depth) ** 0.25
        self.layers = nn.ModuleList(Layer(dim, hidden, n_heads, alpha) for _ in range(depth))
        self.relative_attention_bias = nn.Embedding(cfg["num_buckets"], n_heads)
        self.max_distance = cfg["max_distance"]

    def forward(self, x_BND: Tensor) -> Tensor:
        """Tokens [B, N, D] -> [B, N, D]."""
        count = x_BND.shape[1]
        # an even kernel gives one output more than there are tokens
        positions = F.gelu(self.pos_conv(x_BND.transpose(1, 2))[..., :count])
        x_BND = self.layer_norm(x_BND + positions.transpose(1, 2))
        bias = relative_bias(self.relative_attention_bias.weight, count, self.max_distance)
        for layer in self.layers:
            x_BND = layer(x_BND, bias)
        return x_BND


class BeatsTransformer(nn.Module):
    """Log-mel [B, T, 128] -> tokens [B, T // 16 * 8, D], those of one moment side by side."""

    def __init__(self, dim: int, patch_dim: int, encoder: Encoder) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(1, patch_dim, PATCH, PATCH, bias=False)
        self.layer_norm = nn.LayerNorm(patch_dim)
        # as in the authors' code, there is none between equal widths
        self.post_extract_proj = nn.Identity() if dim == patch_dim else nn.Linear(patch_dim, dim)
        self.encoder = encoder

    def forward(self, frames_BTF: Tensor) -> Tensor:
        """Log-mel [B, T, 128] -> tokens [B, N, D]."""
        patches = self.patch_embedding(frames_BTF[:, None])  # [B, D, T // 16, 8]
        tokens = self.layer_norm(patches.flatten(2).transpose(1, 2))
        return self.encoder(self.post_extract_proj(tokens))


class Beats(nn.Module):
    """Waveform [B, n] at 16 kHz -> rows [B, T // 16, D]: the mean over the bands of a moment."""

    sample_rate = fbank.SAMPLE_RATE

    def __init__(self, transformer: BeatsTransformer, dim: int) -> None:
        super().__init__()
        self.fbank = fbank.KaldiFbank(fbank.POVEY)
        self.transformer = transformer
        self.scene_embedding_size = self.timestamp_embedding_size = dim

    def forward(self, audio_Bn: Tensor) -> Tensor:
        """Rows of 160 ms; shorter clips are padded with zeros."""
        audio_Bn = F.pad(audio_Bn, (0, max(0, SHORTEST - audio_Bn.shape[-1])))
        tokens = (audio_Bn.shape[-1] - SHORTEST) // (PATCH * fbank.HOP) * BANDS + BANDS
        return in_batches(self._of_clips, audio_Bn[:, None], TOKENS_AT_ONCE // tokens)[:, 0]

    def _of_clips(self, audio_Bn: Tensor) -> Tensor:
        frames = (self.fbank(audio_Bn * 2**15) - MEAN) / (2 * DEVIATION)
        return self.transformer(frames).unflatten(1, (-1, BANDS)).mean(dim=2)


def load_model(model_file_path: str = "") -> Beats:
    """Load an official checkpoint, pretrained or fine-tuned; a classifier in it is not used.

    Args:
        model_file_path: e.g. `BEATs_iter3.pt`.

    Raises:
        CheckpointError: if it is missing, damaged or of another kind.
    """
    path = checkpoint_path(model_file_path, EXAMPLE)
    content = read_checkpoint(path)
    cfg = content.get("cfg")
    if not isinstance(cfg, Mapping):
        raise CheckpointError(f"{path} contains no 'cfg': it is not a BEATs checkpoint")
    _check_kind(cfg, path)
    checkpoint = _without_weight_norm(state_in(content.get("model"), path))
    dim = checkpoint.shape("encoder.layer_norm.weight", 1)[0]
    patch_dim = checkpoint.shape("patch_embedding.weight", 4)[0]
    hidden = checkpoint.shape("encoder.layers.0.fc1.weight", 2)[0]
    depth = checkpoint.count_blocks("encoder.layers.")
    checkpoint = _with_one_bias(checkpoint, depth)
    with torch.device("meta"):
        encoder = Encoder(dim, hidden, depth, checkpoint.heads(dim), cfg)
        transformer = BeatsTransformer(dim, patch_dim, encoder)
    checkpoint.fill(transformer, UNUSED)
    return Beats(transformer, dim).eval()


@torch.no_grad()
def get_scene_embeddings(audio: Tensor, model: Beats) -> Tensor:
    """Waveform [B, n] -> embeddings [B, D], the mean over all tokens."""
    return model(as_batch(audio)).mean(dim=1)


@torch.no_grad()
def get_timestamp_embeddings(audio: Tensor, model: Beats) -> tuple[Tensor, Tensor]:
    """Waveform [B, n] -> embeddings [B, T // 16, D] and the centers of their 175 ms in ms."""
    embeddings = model(as_batch(audio))
    times = patch_centers(embeddings.shape[1], PATCH, PATCH, audio.device)
    return embeddings, times.expand(len(audio), -1)


def _check_kind(cfg: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError if a setting is missing or of another architecture."""
    for name, wanted in KIND.items():
        if name not in cfg or cfg[name] != wanted:
            raise CheckpointError(
                f"{path}: cfg[{name!r}] is {cfg.get(name, 'missing')!r}, but only BEATs with "
                f"{wanted!r} is supported"
            )
    for name in ("conv_pos", "conv_pos_groups", "num_buckets", "max_distance"):
        if type(cfg.get(name)) is not int or cfg[name] < 1:
            raise CheckpointError(f"{path}: cfg[{name!r}] is {cfg.get(name, 'missing')!r}")


def _without_weight_norm(checkpoint: Checkpoint) -> Checkpoint:
    """The weight of the positional convolution from its direction and its length at each tap."""
    name = "encoder.pos_conv.0.weight"
    checkpoint.shape(f"{name}_v", 3)
    checkpoint.shape(f"{name}_g", 3)
    tensors = dict(checkpoint.tensors)
    direction, length = tensors.pop(f"{name}_v").float(), tensors.pop(f"{name}_g").float()
    tensors[name] = direction * (length / direction.norm(dim=(0, 1), keepdim=True))
    return Checkpoint(checkpoint.path, tensors)


def _with_one_bias(checkpoint: Checkpoint, depth: int) -> Checkpoint:
    """The checkpoint with a single table of distances, which the file repeats in every layer."""
    names = [f"encoder.layers.{i}.self_attn.relative_attention_bias.weight" for i in range(depth)]
    checkpoint.shape(names[0], 2)
    tensors = dict(checkpoint.tensors)
    table = tensors[names[0]]
    for name in names:
        if not torch.equal(tensors.pop(name, table), table):
            raise CheckpointError(
                f"{checkpoint.path}: {name} differs from layer 0's, but layers share one"
            )
    tensors["encoder.relative_attention_bias.weight"] = table
    return Checkpoint(checkpoint.path, tensors)
