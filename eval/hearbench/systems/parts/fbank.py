"""Kaldi's log-mel filter bank as BEATs, AudioMAE and SSAST call it, and its mel filters.

Equals `torchaudio.compliance.kaldi.fbank` at 16 kHz with 128 bins, 25 ms windows every 10 ms and no
dither. Shapes: B clips, n samples, T frames, F mel bins.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAMPLE_RATE = 16_000  # Hz
WINDOW = 400  # samples
HOP = 160  # samples
N_FFT = 512
N_MELS = 128
PREEMPHASIS = 0.97
FLOOR = torch.finfo(torch.float32).eps  # least energy of a bin
FRAMES_AT_ONCE = 8_192  # bounds the spectrum held at once to some 30 MB
MEAN, DEVIATION = -4.2677393, 4.5689974  # of AudioSet's frames, for AudioMAE and SSAST
HANN, POVEY = 1.0, 0.85  # powers of the Hann window


class KaldiFbank(nn.Module):
    """Waveform [B, n] -> log mel energies [B, T, 128], T = 1 + (n - 400) // 160.

    Args:
        window_power: power of the symmetric Hann window, `HANN` or Kaldi's own `POVEY`.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, window_power: float) -> None:
        super().__init__()
        window = np.hanning(WINDOW) ** window_power
        filters = kaldi_mel_filters(N_MELS, N_FFT, SAMPLE_RATE, low=20.0, high=8_000.0)
        self.register_buffer("window", torch.from_numpy(window).float(), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, audio_Bn: Tensor) -> Tensor:
        """Log mel energies of whole frames; shorter clips are padded with zeros."""
        audio_Bn = F.pad(audio_Bn, (0, max(0, WINDOW - audio_Bn.shape[-1])))
        frames = audio_Bn.unfold(-1, WINDOW, HOP)  # [B, T, 400]
        parts = frames.split(max(1, FRAMES_AT_ONCE // len(frames)), dim=1)
        return torch.cat([self._of_frames(part) for part in parts], dim=1)

    def _of_frames(self, frames: Tensor) -> Tensor:
        frames = frames - frames.mean(dim=-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        frames = (frames - PREEMPHASIS * before) * self.window
        spectrum = torch.view_as_real(torch.fft.rfft(frames, n=N_FFT))
        energies = spectrum.square().sum(dim=-1) @ self.filters
        return energies.clamp(min=FLOOR).log()


def kaldi_mel_filters(bins: int, n_fft: int, rate: int, low: float, high: float) -> Tensor:
    """Triangles linear in mel with peak 1, float32 [n_fft // 2 + 1, bins]; the last row is zero.

    Args:
        bins: number of filters.
        n_fft: length of the transform.
        rate: samples per second.
        low: lower edge of the lowest filter in Hz.
        high: upper edge of the highest one.
    """
    mel = 1127.0 * np.log1p(np.arange(n_fft // 2) * (rate / n_fft) / 700.0)[:, None]
    edges = np.linspace(1127.0 * np.log1p(low / 700.0), 1127.0 * np.log1p(high / 700.0), bins + 2)
    left, center, right = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (mel - left) / (center - left), (right - mel) / (right - center)
    filters = np.maximum(0.0, np.minimum(rising, falling))
    return torch.from_numpy(np.pad(filters, ((0, 1), (0, 0)))).float()


def patch_centers(patches: int, size: int, stride: int, device: torch.device) -> Tensor:
    """Centers in ms of patches of `size` frames, `stride` frames apart."""
    first = ((size - 1) * HOP + WINDOW) / 2
    return (torch.arange(patches, device=device) * (stride * HOP) + first) / (SAMPLE_RATE / 1000)
