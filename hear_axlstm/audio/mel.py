"""Waveform to standardized log-mel spectrogram, in plain torch (paper section 3.2).

Shapes: B clips, n samples, T mel frames, F mel bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hear_axlstm.config import MelConfig

LOG_FLOOR = torch.finfo(torch.float32).eps  # added before the logarithm: silence is log(2^-23)
STD_FLOOR = 1e-8  # avoids division by zero for a silent clip
FLOAT32: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # whatever the defaults are
FRAMES_PER_PASS = 8192  # bounds the spectrum held at once to about 25 MB, whatever the length


class Statistics(NamedTuple):
    """Mean and standard deviation used to standardize log-mel, instead of the clip's own."""

    mean: float
    std: float
    """Unbiased standard deviation."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Statistics:
        """Validate a pair of mean and standard deviation.

        Raises:
            ValueError: if the values are not such a pair.
        """
        try:
            mean, std = (float(value) for value in values)
        except (TypeError, ValueError):
            mean, std = math.nan, math.nan
        if not (math.isfinite(mean) and 0 < std < math.inf):
            raise ValueError(
                f"statistics={values!r}: give the mean and standard deviation of log-mel, "
                "e.g. those that model.fit_statistics(audio) returns"
            )
        return cls(mean, std)


def frame_count(samples: int, config: MelConfig) -> int:
    """Number of frames of a clip, T = 1 + n // hop; frame i is centered on sample i * hop."""
    return 1 + samples // config.hop_length


class LogMel(nn.Module):
    """Natural logarithm of the mel power spectrogram.

    Equals ``log(torchaudio.transforms.MelSpectrogram(...) + eps)`` with torchaudio's defaults:
    HTK scale, no filter normalization, periodic Hann window, centered frames, reflected edges.
    Always in float32, regardless of the caller's default dtype, default device and autocast.
    """

    window: Tensor
    filterbank: Tensor

    def __init__(self, config: MelConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MelConfig()
        window = torch.hann_window(config.n_fft, periodic=True, **FLOAT32)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filterbank", mel_filterbank(config), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute the log-mel of whole clips.

        Args:
            waveform: float32 ``[B, n]`` at ``config.sample_rate``, n >= 1.

        Returns:
            float32 ``[B, T, F]`` with T = 1 + n // hop.
        """
        c = self.config
        samples, edge = waveform.shape[-1], c.n_fft // 2
        # A reflected edge needs more samples than its width: shorter clips are padded with silence.
        waveform = nn.functional.pad(waveform, (0, max(0, edge + 1 - samples)))
        padded = nn.functional.pad(waveform, (edge, edge), mode="reflect")
        frames_BTn = padded.unfold(-1, c.n_fft, c.hop_length)[:, : frame_count(samples, c)]
        passes = frames_BTn.split(max(1, FRAMES_PER_PASS // len(waveform)), dim=1)
        return torch.cat([self.of_frames(frames) for frames in passes], dim=1)

    def of_frames(self, frames_BTn: Tensor) -> Tensor:
        """Compute the log-mel ``[B, T, F]`` of frames ``[B, T, n_fft]`` of the waveform."""
        with _without_autocast(frames_BTn.device.type):
            spectrum = torch.view_as_real(torch.fft.rfft(frames_BTn * self.window))
            power = spectrum.square().sum(-1)
            return (power @ self.filterbank).add_(LOG_FLOOR).log_()


def _without_autocast(device: str) -> AbstractContextManager[object]:
    """Turn autocast off if it is on; otherwise do nothing, so that exported graphs stay clean."""
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def standardize(log_mel_BTF: Tensor, statistics: Statistics | None = None) -> Tensor:
    """Shift and scale each clip to zero mean and unit (unbiased) standard deviation.

    The statistics are computed over all frames and bins of the whole clip, unless given.
    """
    if statistics is not None:
        return (log_mel_BTF - statistics.mean) / (statistics.std + STD_FLOOR)
    std, mean = torch.std_mean(log_mel_BTF, dim=(-2, -1), keepdim=True)
    return (log_mel_BTF - mean) / (std + STD_FLOOR)


def mel_filterbank(config: MelConfig) -> Tensor:
    """Triangular filters on the HTK mel scale, float32 ``[n_fft // 2 + 1, F]``, peak 1."""
    # In float32 like torchaudio, so that the filters' edges agree almost to the last digit.
    hz = torch.linspace(0, config.sample_rate / 2, config.n_fft // 2 + 1, **FLOAT32)
    low, high = _hz_to_mel(config.f_min), _hz_to_mel(config.f_max)
    edge_mel = torch.linspace(low, high, config.n_mels + 2, **FLOAT32)
    edge_hz = 700.0 * (10.0 ** (edge_mel / 2595.0) - 1.0)
    left, center, right = edge_hz[:-2], edge_hz[1:-1], edge_hz[2:]
    rising = (hz[:, None] - left) / (center - left)
    falling = (right - hz[:, None]) / (right - center)
    return torch.minimum(rising, falling).clamp_(min=0)


def _hz_to_mel(hz: float) -> float:
    return 2595.0 * math.log10(1.0 + hz / 700.0)
