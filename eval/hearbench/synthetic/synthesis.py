"""Synthesis primitives: oscillators, struck modes, noise colors, envelopes and a microphone.

Every sound is a mono float64 array [n] at 16 kHz. All chance comes from the generator that is
passed in, so the same seed gives the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from scipy.signal import lfilter

SAMPLE_RATE = 16_000
SETTLE = 0.08  # time constant in seconds of a struck body's pitch bend

Wave = NDArray[np.float64]
Rng = np.random.Generator


def length(seconds: float) -> int:
    """Samples in `seconds`."""
    return round(seconds * SAMPLE_RATE)


def times(seconds: float) -> Wave:
    """Seconds from the start, one value a sample, [n]."""
    return np.arange(length(seconds)) / SAMPLE_RATE


def glide(knots: ArrayLike, n: int) -> Wave:
    """A smooth path [n] through equally spaced `knots`, for pitch and loudness contours."""
    knots = np.asarray(knots, dtype=np.float64)
    return np.interp(np.linspace(0, knots.size - 1, n), np.arange(knots.size), knots)


def oscillate(f0: Wave) -> Wave:
    """A sine [n] of the instantaneous frequency `f0` [n] in Hz."""
    return np.sin(2 * np.pi * np.cumsum(f0) / SAMPLE_RATE)


def harmonics(f0: Wave, amplitudes: ArrayLike) -> Wave:
    """A harmonic tone [n]; partials that would fold over at the Nyquist frequency are left out."""
    fundamental = np.exp(2j * np.pi * np.cumsum(f0) / SAMPLE_RATE)
    partial = np.ones_like(fundamental)
    tone = np.zeros_like(f0)
    for k, amplitude in enumerate(np.atleast_1d(amplitudes), start=1):
        if k * f0.max() >= SAMPLE_RATE / 2:
            break
        partial *= fundamental
        tone += amplitude * partial.imag
    return tone


def strike(
    frequencies: ArrayLike, decays: ArrayLike, seconds: float, rng: Rng, bend: float = 0.0
) -> Wave:
    """A struck body [n]: damped modes of random strength and phase.

    Args:
        frequencies: of the modes, in Hz.
        decays: time constants of the modes, in seconds.
        seconds: length of the sound.
        rng: draws the strength and phase of each mode.
        bend: share by which the pitch starts too high (or too low, if negative) before it settles.
    """
    t = times(seconds)
    warped = t + bend * SETTLE * (1 - np.exp(-t / SETTLE))
    sound = np.zeros_like(t)
    for frequency, decay in np.broadcast(frequencies, decays):
        if frequency * (1 + abs(bend)) < SAMPLE_RATE / 2:
            phase, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.0)
            sound += strength * np.sin(2 * np.pi * frequency * warped + phase) * np.exp(-t / decay)
    return sound


def colored_noise(n: int, slope: float, rng: Rng) -> Wave:
    """Noise [n] of unit deviation whose spectrum falls by `slope` dB an octave (3 is pink)."""
    return _shaped_noise(n, lambda f: 10 ** (-slope * np.log2(np.maximum(f, 30.0)) / 20), rng)


def band_noise(n: int, low: float, high: float, rng: Rng) -> Wave:
    """Noise [n] of unit deviation between `low` and `high` Hz, with soft edges."""
    return _shaped_noise(n, lambda f: f**6 / (f**6 + low**6) / (1 + (f / high) ** 6), rng)


def _shaped_noise(n: int, response: Callable[[Wave], Wave], rng: Rng) -> Wave:
    """White noise through a magnitude response of the frequency in Hz."""
    padded = next_fast_len(n, real=True)  # a transform of prime length is many times slower
    spectrum = rfft(rng.standard_normal(padded))
    return unit(irfft(spectrum * response(rfftfreq(padded, 1 / SAMPLE_RATE)), padded)[:n])


def decay(seconds: float, time_constant: float, attack: float = 0.002) -> Wave:
    """An envelope [n]: a linear attack of `attack` seconds, then an exponential decay."""
    t = times(seconds)
    return np.minimum(t / attack, 1.0) * np.exp(-t / time_constant)


def unit(sound: Wave) -> Wave:
    """The sound at unit deviation; silence stays silence."""
    return sound / max(float(np.std(sound)), 1e-9)


def place(sounds: Sequence[Wave], starts: Sequence[float], seconds: float) -> Wave:
    """Sounds laid into `seconds` of silence at their start times; what sticks out is cut off."""
    canvas = np.zeros(length(seconds))
    for sound, start in zip(sounds, starts, strict=True):
        first = length(start)
        room = canvas[first : first + sound.size]
        room += sound[: room.size]
    return canvas


def record(sound: Wave, rng: Rng) -> Wave:
    """The sound as some microphone hears it: random coloring, background noise and level.

    The peak lies between -14 and -2 dB of full scale, so that nothing clips. Silence becomes
    the background noise alone.
    """
    colored = lfilter([1.0, rng.uniform(-0.5, 0.5)], [1.0], sound)
    noise = colored_noise(sound.size, rng.uniform(0, 6), rng)
    noise_level = max(float(np.std(colored)), 1e-6) * 10 ** (-rng.uniform(8, 35) / 20)
    heard = colored + noise_level * noise
    return heard / np.abs(heard).max() * 10 ** (-rng.uniform(2, 14) / 20)
