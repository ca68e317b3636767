"""A source-filter voice: glottal pulses through formants, with fricatives and stops.

Vowel formants are the averages of Peterson and Barney (1952) for men; a speaker's vocal tract
scales them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import sosfilt

from hearbench.synthetic.synthesis import SAMPLE_RATE, Rng, Wave, band_noise, glide, length, unit

VOWELS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
SONORANTS = {"m": (250, 1000, 2200), "n": (250, 1600, 2600), "l": (360, 1300, 2900)}
FRICATIVES = {"s": (4500, 7800), "x": (2000, 4500), "f": (1200, 7500)}
STOPS = {"p": (200, 1200), "t": (3000, 7000), "k": (1200, 2800)}
CONSONANTS = (*SONORANTS, *FRICATIVES, *STOPS)

FADE = length(0.012)  # sounds blend into each other over this many samples


@dataclass(frozen=True)
class Speaker:
    """What one voice keeps from sound to sound."""

    pitch: float
    """Mean fundamental frequency in Hz."""
    tract: float
    """Formant frequencies as a multiple of the average man's."""
    breath: float
    """Noise in the source, as a share of the pulses."""
    opening: float
    """Share of a glottal period in which the folds are open: small is a pressed voice."""


def some_speaker(rng: Rng) -> Speaker:
    """A random speaker; a longer vocal tract tends to go with a lower voice."""
    size = rng.uniform()
    return Speaker(
        pitch=95 * 2 ** (1.3 * size + rng.normal(0, 0.1)),
        tract=0.95 + 0.25 * size + rng.normal(0, 0.02),
        breath=rng.uniform(0.02, 0.15),
        opening=rng.uniform(0.45, 0.75),
    )


def utter(
    sounds: Sequence[str],
    seconds: Sequence[float],
    melody: Sequence[float],
    speaker: Speaker,
    rng: Rng,
) -> Wave:
    """Speak a sequence of sounds.

    Args:
        sounds: keys of VOWELS, SONORANTS, FRICATIVES or STOPS.
        seconds: length of each sound.
        melody: pitch at equally spaced moments, in semitones from the speaker's mean.
        speaker: whose voice.
        rng: draws noise and jitter.

    Returns:
        The utterance [n], at unit deviation.
    """
    edges = [length(second) for second in np.cumsum([0.0, *seconds])]
    n = edges[-1]
    jitter = glide(rng.normal(0, 0.15, size=max(2, n // length(0.02))), n)
    source = _glottal_pulses(speaker.pitch * 2 ** ((glide(melody, n) + jitter) / 12), speaker, rng)
    speech = np.zeros(n)
    for sound, start, stop in zip(sounds, edges, edges[1:], strict=False):
        first, last = max(0, start - FADE), min(n, stop + FADE)
        ramp = np.minimum(np.arange(last - first) + 1, np.arange(last - first, 0, -1))
        window = np.minimum(ramp / (2 * FADE), 1.0)
        speech[first:last] += window * _articulate(sound, source[first:last], speaker, rng)
    return unit(speech)


def _glottal_pulses(f0: Wave, speaker: Speaker, rng: Rng) -> Wave:
    """The derivative of a raised-cosine glottal flow of pitch `f0` [n] in Hz, with breath, [n]."""
    position = np.cumsum(f0) / SAMPLE_RATE % 1.0 / speaker.opening
    flow = np.where(position < 1.0, np.sin(np.pi * np.minimum(position, 1.0)) ** 2, 0.0)
    pulses = unit(np.diff(flow, prepend=0.0))
    return pulses + speaker.breath * rng.standard_normal(f0.size)


def _articulate(sound: str, source: Wave, speaker: Speaker, rng: Rng) -> Wave:
    n = source.size
    if sound in VOWELS:
        return unit(_resonate(source, VOWELS[sound], speaker))
    if sound in SONORANTS:
        return 0.4 * unit(_resonate(source, SONORANTS[sound], speaker))
    if sound in FRICATIVES:
        low, high = FRICATIVES[sound]
        return 0.4 * band_noise(n, low * speaker.tract, high, rng)
    low, high = STOPS[sound]
    burst = np.zeros(n)  # a closure, then a release in the last third
    release = n - n // 3
    burst[release:] = np.exp(-np.arange(n - release) / length(0.008))
    return 1.2 * burst * band_noise(n, low * speaker.tract, high * speaker.tract, rng)


def _resonate(source: Wave, formants: Sequence[float], speaker: Speaker) -> Wave:
    """The source through a cascade of two-pole resonators."""
    sections = []
    for center in (*formants, 3500.0, 4500.0):
        center = center * speaker.tract
        radius = np.exp(-np.pi * (60 + 0.05 * center) / SAMPLE_RATE)
        a1 = -2 * radius * np.cos(2 * np.pi * center / SAMPLE_RATE)
        sections.append([1 + a1 + radius**2, 0, 0, 1, a1, radius**2])
    return sosfilt(np.array(sections), source)
