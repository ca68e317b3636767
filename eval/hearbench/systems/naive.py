"""HEAR-naive, the lower bound of every comparison: a fixed random projection of log-mel frames.

Follows the naive baseline of the HEAR 2021 paper (Turian et al.) as hearbaseline 2021.1.1 computes
it: the power spectrum in 256 bins of the Slaney mel scale, whose filters have equal areas, its
logarithm, and a projection to 4096 dimensions, drawn once from the uniform distribution on [0, 1)
over sqrt(256). Nothing is learned. There is one timestamp embedding every 50 ms, and a scene is the
mean over frames 250 ms apart. It differs in the sampling rate (16 kHz, the tasks', instead of
44.1 kHz), in the window (2,048 samples, 128 ms, instead of 4,096, 93 ms), and in the numbers drawn.

Shapes: B clips, n samples, T frames, F mel bins, D embedding size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hearbench.systems.parts.mel_filters import slaney_mel_filters

SAMPLE_RATE = 16_000  # Hz
N_FFT = 2_048  # samples: 128 ms
N_MELS = 256
EMBEDDING_SIZE = 4_096
TIMESTAMP_HOP_MS = 50
SCENE_HOP_MS = 250
LOG_OFFSET = 1e-4


class NaiveModel(nn.Module):
    """Waveform [B, n] -> log-mel -> random projection [B, T, 4096]."""

    sample_rate = SAMPLE_RATE
    scene_embedding_size = EMBEDDING_SIZE
    timestamp_embedding_size = EMBEDDING_SIZE
    window: Tensor
    mel_filters: Tensor
    projection: Tensor

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("window", torch.hann_window(N_FFT))
        self.register_buffer("mel_filters", slaney_mel_filters(N_MELS, N_FFT, SAMPLE_RATE))
        projection = torch.rand(N_MELS, EMBEDDING_SIZE, generator=generator) / N_MELS**0.5
        self.register_buffer("projection", projection)

    def log_mel(self, audio: Tensor, hop_ms: int) -> Tensor:
        """Waveform [B, n] in [-1, 1] -> log-mel [B, T, F]; frame t is centered on t x `hop_ms`."""
        hop = hop_ms * SAMPLE_RATE // 1000
        padded = nn.functional.pad(audio, (N_FFT // 2, N_FFT // 2))
        frames = padded.unfold(-1, N_FFT, hop) * self.window  # [B, T, N_FFT]
        power = torch.fft.rfft(frames).abs().square()
        return torch.log(power @ self.mel_filters + LOG_OFFSET)


def load_model(model_file_path: str = "", *, seed: int = 0) -> NaiveModel:
    """The baseline; there are no weights to load.

    Raises:
        ValueError: if a weights file is given.
    """
    if model_file_path:
        raise ValueError(f"the naive baseline takes no weights file: leave out {model_file_path!r}")
    return NaiveModel(seed).eval()


def get_timestamp_embeddings(audio: Tensor, model: NaiveModel) -> tuple[Tensor, Tensor]:
    """Waveform [B, n] -> embeddings [B, T, 4096] and their times [B, T] in ms, 50 ms apart."""
    embeddings = model.log_mel(audio, TIMESTAMP_HOP_MS) @ model.projection
    times = torch.arange(embeddings.shape[1], device=audio.device) * float(TIMESTAMP_HOP_MS)
    return embeddings, times.expand(audio.shape[0], -1)


def get_scene_embeddings(audio: Tensor, model: NaiveModel) -> Tensor:
    """Waveform [B, n] -> embeddings [B, 4096]."""
    # The projection is linear: averaging first gives the same and is cheaper.
    return model.log_mel(audio, SCENE_HOP_MS).mean(dim=1) @ model.projection
