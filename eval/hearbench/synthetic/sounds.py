"""Parametric sounds: tones, noise and chirps under envelopes, once or as repeated events.

A sound is a mono float64 array [n] at 16 kHz. All randomness comes from the generator that is
passed in, so the same seed gives the same samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
ATTACK = 0.004  # seconds

Wave = NDArray[np.float64]
Rng = np.random.Generator


class Sound(NamedTuple):
    """Parameters of a kind of sound; every rendering draws within them."""

    pitch: tuple[float, float] = (200.0, 800.0)
    """Range of the lowest partial, in Hz."""
    partials: int = 1
    """Number of harmonic partials, falling by 6 dB per octave."""
    sweep: float = 0.0
    """Octaves by which the pitch rises over an event."""
    noise: float = 0.0
    """Share of noise, 0 to 1."""
    band: tuple[float, float] = (100.0, 7000.0)
    """Band of the noise, in Hz."""
    decay: float = math.inf
    """Time constant of an event, in seconds."""
    tremolo: float = 0.0
    """Frequency of the tremolo, in Hz."""
    rate: float = 0.0
    """Events per second; 0 means one sustained event."""
    regular: bool = False
    """Whether events come at a steady beat."""


def render(sound: Sound, seconds: float, rng: Rng) -> Wave:
    """A sound of this kind, at unit deviation."""
    if not sound.rate:
        return unit(_event(sound, seconds, rng))
    rate = sound.rate * rng.uniform(0.8, 1.25)
    if sound.regular:
        starts = np.arange(rng.uniform(0, 0.5 / rate), 0.95 * seconds, 1 / rate)
    else:
        starts = np.sort(rng.uniform(0, 0.9 * seconds, max(1, rng.poisson(rate * seconds))))
    longest = min(seconds, max(0.05, 3 * sound.decay) if sound.decay < math.inf else 0.9 / rate)
    return unit(place([_event(sound, longest, rng) for _ in starts], starts.tolist(), seconds))


def _event(sound: Sound, seconds: float, rng: Rng) -> Wave:
    t = times(seconds)
    pitch = np.exp(rng.uniform(*np.log(sound.pitch)))
    f0 = pitch * 2 ** (sound.sweep * rng.uniform(0.8, 1.2) * (t / seconds - 0.5))
    phase = 2 * np.pi * np.cumsum(f0) / SAMPLE_RATE
    audible = min(sound.partials, int(0.49 * SAMPLE_RATE / f0.max()))
    tone = sum(
        (rng.uniform(0.6, 1) / k * np.sin(k * phase) for k in range(1, audible + 1)),
        start=np.zeros_like(t),
    )
    mixed = (1 - sound.noise) * unit(tone)
    if sound.noise:
        mixed += sound.noise * band_noise(t.size, *sound.band, rng)
    envelope = np.minimum(t / ATTACK, 1) * np.exp(-t / (sound.decay * rng.uniform(0.7, 1.4)))
    if sound.tremolo:
        rate = sound.tremolo * rng.uniform(0.85, 1.15)
        envelope *= 0.55 + 0.45 * np.sin(2 * np.pi * (rate * t + rng.uniform()))
    return mixed * envelope * np.minimum((seconds - t) / ATTACK, 1)


def times(seconds: float) -> Wave:
    """Seconds from the start, one value per sample, [n]."""
    return np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def band_noise(n: int, low: float, high: float, rng: Rng) -> Wave:
    """Noise [n] of unit deviation between two frequencies, with soft edges."""
    f = np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
    response = f**4 / (f**4 + low**4) / (1 + (f / high) ** 4)
    return unit(np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * response, n))


def unit(sound: Wave) -> Wave:
    """The sound at unit deviation; silence stays silence."""
    return sound / max(float(np.std(sound)), 1e-9)


def place(sounds: Sequence[Wave], starts: Sequence[float], seconds: float) -> Wave:
    """Sounds at their start times in `seconds` of silence; what exceeds it is cut off."""
    canvas = np.zeros(round(seconds * SAMPLE_RATE))
    for sound, start in zip(sounds, starts, strict=True):
        room = canvas[round(start * SAMPLE_RATE) :][: sound.size]
        room += sound[: room.size]
    return canvas


def record(sound: Wave, rng: Rng) -> Wave:
    """The sound through a random microphone: coloring, background noise and level.

    The peak is between -14 and -2 dB of full scale. Silence becomes the background noise alone.
    """
    colored = sound + rng.uniform(-0.5, 0.5) * np.roll(sound, 1)
    noise = band_noise(sound.size, 60.0, 10 ** rng.uniform(2.5, 3.8), rng)
    level = max(float(np.std(colored)), 1e-6) * 10 ** (-rng.uniform(8, 35) / 20)
    recorded = colored + level * noise
    return recorded / np.abs(recorded).max() * 10 ** (-rng.uniform(2, 14) / 20)
