"""PaSST behind the HEAR API, as in the authors' entry to HEAR 2021 (`hear21passt.base`).

Koutini et al., "Efficient Training of Audio Transformers with Patchout" (2022). An embedding is the
model's AudioSet logits followed by the mean of its two class tokens: 527 + 768 values for the
checkpoint `passt-s-f128-p16-s10-ap.476-swa.pt`. Audio is at 32 kHz.

Shapes: B clips or windows, n samples, T frames, N tokens, D width, W windows of a clip.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hearbench.systems.parts.checkpoint import (
    CheckpointError,
    checkpoint_path,
    read_checkpoint,
    state_in,
)
from hearbench.systems.parts.chunks import TOKENS_AT_ONCE, as_batch, in_batches
from hearbench.systems.parts.fbank import kaldi_mel_filters
from hearbench.systems.parts.vit import NORM_EPS, Block, PatchEmbedding

EXAMPLE = "passt-s-f128-p16-s10-ap.476-swa.pt"
SAMPLE_RATE = 32_000  # Hz
N_FFT, WINDOW, HOP, N_MELS = 1_024, 800, 320, 128
MEL_HIGH = 15_000.0  # Hz: the middle of the range that training drew from
PREEMPHASIS = 0.97
PATCH = 16
SHORTEST_SCENE = 1 + HOP * (PATCH - 1)  # samples of one patch
TIMESTAMP_WINDOW, TIMESTAMP_HOP = 5_120, 1_600  # samples: 160 ms every 50 ms
STRIDES = {12: 10, 10: 12, 9: 14, 8: 16}
"""Positions along frequency -> stride of the patches, which checkpoints do not contain."""
WINDOWS = {
    (10, 99): (10.0, 2.5),
    (10, 200): (20.0, 5.0),
    (10, 300): (30.0, 10.0),
    (12, 82): (10.0, 2.5),
    (14, 71): (10.0, 2.5),
    (16, 62): (10.0, 2.5),
}
"""Stride and positions along time -> length of a window and hop in longer clips, in seconds."""
UNUSED = r"head_dist\."


class PasstMel(nn.Module):
    """Waveform [B, n] at 32 kHz -> normalized log-mel [B, 1, 128, T], T = 1 + (n - 1) // 320."""

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        window = torch.hann_window(WINDOW, periodic=False)
        filters = kaldi_mel_filters(N_MELS, N_FFT, SAMPLE_RATE, low=0.0, high=MEL_HIGH)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, audio_Bn: Tensor) -> Tensor:
        """Log-mel of whole clips of at least 514 samples."""
        audio_Bn = audio_Bn[:, 1:] - PREEMPHASIS * audio_Bn[:, :-1]
        spectrum = torch.stft(
            audio_Bn, N_FFT, HOP, WINDOW, self.window, pad_mode="reflect", return_complex=True
        )
        power = torch.view_as_real(spectrum).square().sum(dim=-1)  # [B, 513, T]
        mel = (power.transpose(1, 2) @ self.filters + 1e-5).log()
        return ((mel + 4.5) / 5.0).transpose(1, 2).unsqueeze(1)


class PasstTransformer(nn.Module):
    """Log-mel [B, 1, 128, T] -> logits and features [B, classes + D]; parameters as published."""

    def __init__(self, dim: int, depth: int, classes: int, grid: tuple[int, int], n_heads: int):
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.dist_token = nn.Parameter(torch.empty(1, 1, dim))
        self.new_pos_embed = nn.Parameter(torch.empty(1, 2, dim))
        self.freq_new_pos_embed = nn.Parameter(torch.empty(1, dim, grid[0], 1))
        self.time_new_pos_embed = nn.Parameter(torch.empty(1, dim, 1, grid[1]))
        stride = STRIDES[grid[0]]
        self.patch_embed = PatchEmbedding(dim, (PATCH, PATCH), (stride, stride))
        self.blocks = nn.Sequential(*(Block(dim, n_heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, classes))

    def forward(self, mel_B1FT: Tensor) -> Tensor:
        """Log-mel [B, 1, 128, T] -> [B, classes + D]."""
        patches = self.patch_embed(mel_B1FT)  # [B, D, frequency, time]
        positions = self.time_new_pos_embed[..., : patches.shape[-1]]
        # at stride 12 a full window has one patch more than positions, which the authors cut, too
        patches = patches[..., : positions.shape[-1]] + positions
        patches = patches + self.freq_new_pos_embed
        tokens = patches.flatten(2).transpose(1, 2)
        first = torch.cat([self.cls_token, self.dist_token], dim=1) + self.new_pos_embed
        tokens = torch.cat([first.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.norm(self.blocks(tokens))
        features = (tokens[:, 0] + tokens[:, 1]) / 2
        return torch.cat([self.head(features), features], dim=-1)


class Passt(nn.Module):
    """Waveform [B, n] at 32 kHz -> embeddings of one window [B, classes + D]."""

    sample_rate = SAMPLE_RATE

    def __init__(self, transformer: PasstTransformer, size: int, window_s: float, hop_s: float):
        super().__init__()
        self.mel = PasstMel()
        self.transformer = transformer
        self.scene_embedding_size = self.timestamp_embedding_size = size
        self.window = int(window_s * SAMPLE_RATE)  # samples that are seen at once
        self.hop = int(hop_s * SAMPLE_RATE)
        self.stride = transformer.patch_embed.proj.stride[1]  # frames from one patch to the next

    def forward(self, audio_Bn: Tensor) -> Tensor:
        """One embedding per clip."""
        return self.transformer(self.mel(audio_Bn))

    def of_windows(self, audio_Bn: Tensor, window: int, hop: int) -> Tensor:
        """Embeddings [B, W, ...] of windows around the samples 0, hop, 2 hop, ... of each clip."""
        count = audio_Bn.shape[-1] // hop + 1
        audio_Bn = F.pad(audio_Bn, (0, max(0, window // 2 + 1 - audio_Bn.shape[-1])))
        padded = F.pad(audio_Bn, (window // 2, window // 2), mode="reflect")
        windows = padded.unfold(-1, window, hop)[:, :count]
        return in_batches(self, windows, self.at_once(window))

    def at_once(self, samples: int) -> int:
        """Number of windows of this length in one pass."""
        rows = self.transformer.freq_new_pos_embed.shape[2]
        columns = (samples // HOP - PATCH) // self.stride + 1
        return max(1, TOKENS_AT_ONCE // (2 + rows * max(1, columns)))


def load_model(model_file_path: str = "") -> Passt:
    """Load an official checkpoint.

    Args:
        model_file_path: a `passt-*.pt` with patches of 16 x 16 and windows of 10, 20 or 30 s.

    Raises:
        CheckpointError: if it is missing, damaged or of another kind.
    """
    path = checkpoint_path(model_file_path, EXAMPLE)
    content = read_checkpoint(path)
    checkpoint = state_in(content.get("model", content), path)
    _, dim, rows, _ = checkpoint.shape("freq_new_pos_embed", 4)
    columns = checkpoint.shape("time_new_pos_embed", 4)[-1]
    classes = checkpoint.shape("head.1.weight", 2)[0]
    known = (STRIDES.get(rows), columns)
    if known not in WINDOWS:
        raise CheckpointError(
            f"{path} has {rows} x {columns} positions: a PaSST of another stride or hop than the "
            f"known ones ({', '.join(f'stride {s}: {n} in time' for s, n in WINDOWS)})"
        )
    depth, n_heads = checkpoint.count_blocks("blocks."), checkpoint.heads(dim)
    with torch.device("meta"):
        transformer = PasstTransformer(dim, depth, classes, (rows, columns), n_heads)
    checkpoint.fill(transformer, UNUSED)
    return Passt(transformer, classes + dim, *WINDOWS[known]).eval()


@torch.no_grad()
def get_scene_embeddings(audio: Tensor, model: Passt) -> Tensor:
    """Waveform [B, n] -> embeddings [B, classes + D]; the mean over windows of a longer clip."""
    audio = as_batch(audio)
    if audio.shape[-1] > model.window:
        return model.of_windows(audio, model.window, model.hop).mean(dim=1)
    audio = F.pad(audio, (0, max(0, SHORTEST_SCENE - audio.shape[-1])))
    return in_batches(model, audio[:, None], model.at_once(audio.shape[-1]))[:, 0]


@torch.no_grad()
def get_timestamp_embeddings(audio: Tensor, model: Passt) -> tuple[Tensor, Tensor]:
    """Waveform [B, n] -> embeddings [B, W, classes + D] of 160 ms each, and times [B, W] in ms."""
    audio = as_batch(audio)
    embeddings = model.of_windows(audio, TIMESTAMP_WINDOW, TIMESTAMP_HOP)
    times = torch.arange(embeddings.shape[1], device=audio.device) * 50.0
    return embeddings, times.expand(len(audio), -1)
