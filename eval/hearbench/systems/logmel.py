"""A plain baseline: mean and standard deviation of the log-mel spectrogram. Nothing is learned.

80 HTK mels from 50 to 8000 Hz, 25 ms windows every 10 ms. A scene embedding is the mean of each bin
over the clip followed by its deviation, 160 values; a timestamp embedding is the same over 21
frames, every 50 ms.

Shapes: B clips, n samples, T frames or times, F mel bins.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hearbench.systems.parts.chunks import as_batch
from hearbench.systems.parts.htk_mel import N_MELS, SAMPLE_RATE, HtkLogMel

FRAMES, HOP = 21, 5  # frames per timestamp embedding, and from one to the next: 210 ms, 50 ms
HOP_MS = 50.0


class LogMelStatistics(HtkLogMel):
    """Waveform [B, n] -> log-mel [B, T, 80]."""

    sample_rate = SAMPLE_RATE
    scene_embedding_size = timestamp_embedding_size = 2 * N_MELS


def load_model(model_file_path: str = "") -> LogMelStatistics:
    """The baseline; there are no weights to load.

    Raises:
        ValueError: if a weights file is given.
    """
    if model_file_path:
        raise ValueError(f"logmel takes no weights file: leave out {model_file_path!r}")
    return LogMelStatistics().eval()


@torch.no_grad()
def get_scene_embeddings(audio: Tensor, model: LogMelStatistics) -> Tensor:
    """Waveform [B, n] -> embeddings [B, 160]."""
    return _statistics(model(as_batch(audio)), dim=1)


@torch.no_grad()
def get_timestamp_embeddings(audio: Tensor, model: LogMelStatistics) -> tuple[Tensor, Tensor]:
    """Waveform [B, n] -> embeddings [B, T, 160] and their times [B, T] in ms, 50 ms apart."""
    log_mel = model(as_batch(audio))
    edge = FRAMES // 2
    first, last = log_mel[:, :1].expand(-1, edge, -1), log_mel[:, -1:].expand(-1, edge, -1)
    frames = torch.cat([first, log_mel, last], dim=1).unfold(1, FRAMES, HOP)  # [B, T, F, 21]
    embeddings = _statistics(frames, dim=-1)
    times = torch.arange(embeddings.shape[1], device=audio.device) * HOP_MS
    return embeddings, times.expand(len(audio), -1)


def _statistics(values: Tensor, dim: int) -> Tensor:
    """Mean, then standard deviation, along `dim`, side by side in the last dimension."""
    std, mean = torch.std_mean(values, dim=dim, correction=0)
    return torch.cat([mean, std], dim=-1)
