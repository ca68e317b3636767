"""A plain baseline: the mean log-magnitude spectrum. Nothing is learned.

257 bins up to 8 kHz of log(1 + magnitude), 32 ms frames every 20 ms; a frame is a timestamp
embedding and their mean the scene embedding. On tasks whose classes differ in their average
spectrum it is hard to beat, so a table that lacks it says little about them.

Shapes: B clips, n samples, T frames.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hearbench.systems.parts.chunks import as_batch

SAMPLE_RATE = 16_000  # Hz
WINDOW, HOP = 512, 320  # samples
HOP_MS = 20.0


class Spectrum(nn.Module):
    """Waveform [B, n] -> log-magnitude spectrum [B, T, 257]; frame t is centered on 320 t."""

    sample_rate = SAMPLE_RATE
    scene_embedding_size = timestamp_embedding_size = WINDOW // 2 + 1

    def forward(self, audio_Bn: Tensor) -> Tensor:
        """Log-magnitude of frames; silence surrounds the clip."""
        frames = F.pad(audio_Bn, (WINDOW // 2, WINDOW // 2)).unfold(1, WINDOW, HOP)
        return torch.fft.rfft(frames).abs().log1p()


def load_model(model_file_path: str = "") -> Spectrum:
    """The baseline; there are no weights to load.

    Raises:
        ValueError: if a weights file is given.
    """
    if model_file_path:
        raise ValueError(f"spectrum takes no weights file: leave out {model_file_path!r}")
    return Spectrum().eval()


@torch.no_grad()
def get_scene_embeddings(audio: Tensor, model: Spectrum) -> Tensor:
    """Waveform [B, n] -> embeddings [B, 257]."""
    return model(as_batch(audio)).mean(dim=1)


@torch.no_grad()
def get_timestamp_embeddings(audio: Tensor, model: Spectrum) -> tuple[Tensor, Tensor]:
    """Waveform [B, n] -> embeddings [B, T, 257] and their times [B, T] in ms, 20 ms apart."""
    embeddings = model(as_batch(audio))
    times = torch.arange(embeddings.shape[1], device=audio.device) * HOP_MS
    return embeddings, times.expand(len(audio), -1)
