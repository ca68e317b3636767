"""Search a corpus for copies of evaluation audio by pairs of spectral peaks (Wang 2003).

A. Wang, "An Industrial-Strength Audio Search Algorithm", ISMIR 2003: two clips share audio if many
pairs of peaks agree in both frequencies, in their distance, and in one offset between the clips.
Copies that were resampled, coded, cut or changed in level are found; steady noise and sounds of
less than about a second may escape. Two notes of one pitch agree in many pairs too, so a match is
confirmed by the correlation of the waveforms.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import fftconvolve
from torch.nn.functional import max_pool2d

from scripts.corpus.clips import RATE, Wave

Ints = NDArray[np.int64]

WINDOW, HOP = 1024, 512  # samples
BINS = slice(4, 300)  # 62 Hz to 4.7 kHz: what coders and resamplers keep
NEIGHBORS = (3, 10)  # frames and bins on each side that a peak exceeds
PEAKS_PER_SECOND = 25
NEXT_PEAKS = 12  # that each peak is paired with
MOST_FRAMES, MOST_BINS = 40, 160  # between the peaks of a pair
TOO_COMMON = 200  # clips' pairs with the same key, beyond which the key is uninformative
OFFSETS = 1 << 17  # more than the frames of two files of twenty minutes
TINY = 1e-9  # energy of silence


@dataclass(frozen=True)
class Match:
    """The evaluation clip that shares most pairs with a corpus clip at one offset."""

    name: str
    agreeing: int
    pairs: int
    """Number of pairs of the corpus clip."""


def peaks(wave: Wave) -> tuple[Ints, Ints]:
    """Frames and frequency bins of local maxima of the log spectrogram, in order of time."""
    wave = np.pad(wave, (0, max(0, WINDOW + 4 * HOP - len(wave))))
    spectrum = torch.stft(
        torch.from_numpy(wave), WINDOW, HOP, window=torch.hann_window(WINDOW, periodic=False),
        center=False, return_complex=True,
    )  # fmt: skip
    log = torch.log(spectrum.abs()[BINS].T + 1e-4)
    log = log - 0.5 * log.mean(dim=0, keepdim=True)  # a steady hum counts less
    highest = log[None]
    for near in ((NEIGHBORS[0], 0), (0, NEIGHBORS[1])):  # one axis after the other is faster
        highest = max_pool2d(highest, tuple(2 * n + 1 for n in near), stride=1, padding=near)
    loud = log > log.mean() + 0.5 * log.std()
    frames, bins = ((log == highest[0]) & loud).nonzero(as_tuple=True)
    count = int(PEAKS_PER_SECOND * len(wave) / RATE) + 8
    kept = log[frames, bins].argsort(descending=True, stable=True)[:count].sort().values
    return frames[kept].numpy(), bins[kept].numpy()


def pairs(wave: Wave) -> tuple[Ints, Ints]:
    """Keys of pairs of peaks, and the frame of each pair's first peak."""
    frames, bins = peaks(wave)
    nothing = np.empty(0, np.int64)
    keys, times = [nothing], [nothing]
    for ahead in range(1, min(NEXT_PEAKS, len(frames) - 1) + 1):
        distance, interval = frames[ahead:] - frames[:-ahead], bins[ahead:] - bins[:-ahead]
        near = (distance >= 1) & (distance <= MOST_FRAMES) & (np.abs(interval) <= MOST_BINS)
        first, second = bins[:-ahead][near], bins[ahead:][near]
        keys.append((first << 16) | (second << 6) | distance[near])
        times.append(frames[:-ahead][near])
    return np.concatenate(keys), np.concatenate(times)


class Index:
    """Pairs of many clips, to search with others.

    Args:
        clips: names and waves, 16 kHz.
    """

    def __init__(self, clips: Iterable[tuple[str, Wave]]) -> None:
        self.names: list[str] = []
        nothing = np.empty(0, np.int64)
        keys, times, owners = [nothing], [nothing], [nothing]
        for name, wave in clips:
            own_keys, own_times = pairs(wave)
            keys.append(own_keys)
            times.append(own_times)
            owners.append(np.full(len(own_keys), len(self.names)))
            self.names.append(name)
        key = np.concatenate(keys)
        order = key.argsort(kind="stable")
        _, where, count = np.unique(key[order], return_inverse=True, return_counts=True)
        order = order[count[where] <= TOO_COMMON]
        self._keys = key[order]
        self._times, self._owners = np.concatenate(times)[order], np.concatenate(owners)[order]

    def best(self, wave: Wave) -> Match | None:
        """The indexed clip that most pairs of a wave agree with, or None if none does."""
        keys, times = pairs(wave)
        low, high = (np.searchsorted(self._keys, keys, side) for side in ("left", "right"))
        count = high - low
        if not count.sum():
            return None
        starts = np.repeat(low - (count.cumsum() - count), count)
        found = starts + np.arange(count.sum())
        offsets = self._times[found] - np.repeat(times, count)
        votes, sums = np.unique(
            self._owners[found] * OFFSETS + offsets + OFFSETS // 2, return_counts=True
        )
        adjacent = np.flatnonzero(np.diff(votes) == 1)  # an offset between two frames
        both = sums.copy()
        both[adjacent] += sums[adjacent + 1]
        winner = int(both.argmax())
        return Match(self.names[votes[winner] // OFFSETS], int(both[winner]), len(keys))


def correlation(wave: Wave, other: Wave) -> float:
    """Largest normalized correlation, 0..1, of the loudest second of `other` with a part of `wave`.

    A copy in another coding gives more than 0.9; different sounds rarely do.
    """
    size = min(len(wave), len(other), RATE)
    loudest = int(_energies(other, size).argmax())
    part = other[loudest : loudest + size]
    products = np.abs(fftconvolve(wave, part[::-1], mode="valid"))
    return float((products / np.sqrt(_energies(wave, size) * np.square(part).sum() + TINY)).max())


def _energies(wave: Wave, size: int) -> NDArray[np.float64]:
    """Energy of every part of a wave with this number of samples."""
    sums = np.concatenate(([0.0], np.square(wave, dtype=np.float64).cumsum()))
    return sums[size:] - sums[:-size]
