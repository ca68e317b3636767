"""The log-mel front end of SSAM and MW-MAE: HTK mels, standardized over the clip.

Equals `torchaudio.transforms.MelSpectrogram` with 25 ms windows every 10 ms at 16 kHz, 80 bins from
50 to 8000 Hz and its defaults otherwise. Shapes: B clips, n samples, T frames, F mel bins.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAMPLE_RATE = 16_000  # Hz
N_FFT = 400  # samples
HOP = 160  # samples
N_MELS = 80
LOW, HIGH = 50.0, 8_000.0  # Hz
LOG_FLOOR = torch.finfo(torch.float32).eps  # added before the logarithm
STD_FLOOR = 1e-8  # keeps a silent clip finite
FRAMES_AT_ONCE = 8_192  # bounds the spectrum held at once to some 25 MB


class HtkLogMel(nn.Module):
    """Waveform [B, n] -> log-mel [B, T, 80], T = 1 + n // 160; frame i is centered on 160 i."""

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        filters = htk_mel_filters(N_MELS, N_FFT, SAMPLE_RATE, LOW, HIGH)
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, audio_Bn: Tensor) -> Tensor:
        """Log-mel [B, T, 80]; edges are reflected, and very short clips padded with zeros."""
        samples, edge = audio_Bn.shape[-1], N_FFT // 2
        audio_Bn = F.pad(audio_Bn, (0, max(0, edge + 1 - samples)))
        frames = F.pad(audio_Bn, (edge, edge), mode="reflect").unfold(-1, N_FFT, HOP)
        frames = frames[:, : 1 + samples // HOP]
        parts = frames.split(max(1, FRAMES_AT_ONCE // len(frames)), dim=1)
        return torch.cat([self._of_frames(part) for part in parts], dim=1)

    def _of_frames(self, frames: Tensor) -> Tensor:
        spectrum = torch.view_as_real(torch.fft.rfft(frames * self.window))
        power = spectrum.square().sum(dim=-1)
        return (power @ self.filters + LOG_FLOOR).log()


def standardize(log_mel_BTF: Tensor) -> Tensor:
    """Zero mean and unit (unbiased) standard deviation of each clip, over all frames and bins."""
    std, mean = torch.std_mean(log_mel_BTF, dim=(1, 2), keepdim=True)
    return (log_mel_BTF - mean) / (std + STD_FLOOR)


def htk_mel_filters(bins: int, n_fft: int, rate: int, low: float, high: float) -> Tensor:
    """Triangles linear in Hz with peak 1, edges equal in HTK mels, float32 [n_fft // 2 + 1, bins].

    Args:
        bins: number of filters.
        n_fft: length of the transform.
        rate: samples per second.
        low: lower edge of the lowest filter in Hz.
        high: upper edge of the highest one.
    """
    # In float32 like torchaudio: the filters' edges then agree to the last digit but one.
    edges_mel = torch.linspace(_mel(low), _mel(high), bins + 2)
    return triangles(700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0), n_fft, rate)


def triangles(edges: Tensor, n_fft: int, rate: int) -> Tensor:
    """Triangular filters with peak 1 [n_fft // 2 + 1, bins] between edges [bins + 2] in Hz."""
    hz = torch.linspace(0, rate / 2, n_fft // 2 + 1, dtype=edges.dtype)[:, None]
    left, center, right = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (hz - left) / (center - left), (right - hz) / (right - center)
    return torch.minimum(rising, falling).clamp(min=0)


def _mel(hz: float) -> float:
    return 2595.0 * math.log10(1.0 + hz / 700.0)
