"""The log-mel front end of SSAM and MW-MAE: HTK mels, standardized over the clip.

Equals `torchaudio.transforms.MelSpectrogram` with 25 ms windows every 10 ms at 16 kHz, 80 bins from
50 to 8000 Hz and its defaults otherwise. Shapes: B clips, n samples, T frames, F mel bins.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hearbench.systems.parts.mel_filters import htk_mel_filters

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
