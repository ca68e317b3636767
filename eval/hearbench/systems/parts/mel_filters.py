"""Triangular mel filters, on the scale of HTK (O'Shaughnessy) and on that of Slaney's toolbox."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
    return _triangles(700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0), n_fft, rate)


def slaney_mel_filters(bins: int, n_fft: int, rate: int) -> Tensor:
    """Triangles of area 1 up to rate / 2, edges equal in Slaney mels, [n_fft // 2 + 1, bins].

    The scale is linear up to 1 kHz, 15 mels, and logarithmic above: 27 mels multiply by 6.4.
    """
    log_step = math.log(6.4) / 27
    highest = 15 + math.log(rate / 2 / 1000) / log_step
    mels = torch.linspace(0, highest, bins + 2, dtype=torch.float64)
    edges = torch.where(mels < 15, mels * 200 / 3, 1000 * torch.exp((mels - 15) * log_step))
    return (_triangles(edges, n_fft, rate) * 2 / (edges[2:] - edges[:-2])).float()


def _triangles(edges: Tensor, n_fft: int, rate: int) -> Tensor:
    """Triangular filters with peak 1 [n_fft // 2 + 1, bins] between edges [bins + 2] in Hz."""
    hz = torch.linspace(0, rate / 2, n_fft // 2 + 1, dtype=edges.dtype)[:, None]
    left, center, right = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (hz - left) / (center - left), (right - hz) / (right - center)
    return torch.minimum(rising, falling).clamp(min=0)


def _mel(hz: float) -> float:
    return 2595.0 * math.log10(1.0 + hz / 700.0)
