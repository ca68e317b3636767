"""Renderers of the musical tasks: percussion, drum strokes and their tonic, single notes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hearbench.synthetic.synthesis import (
    Rng,
    Wave,
    band_noise,
    decay,
    glide,
    harmonics,
    length,
    place,
    strike,
    times,
)

PERCUSSION = ("clapper", "cymbals", "large_gong", "small_gong")

TONICS = {"b": 123.5, "c": 130.8, "c_sharp": 138.6, "d": 146.8, "d_sharp": 155.6, "e": 164.8}

PITCHES = tuple(str(midi) for midi in range(21, 109))


def percussion(label: str, seconds: float, rng: Rng) -> Wave:
    """One hit of a clapper, a pair of cymbals, or a gong whose pitch falls (large) or rises."""
    size = rng.uniform(0.6, 1.6)
    if label == "clapper":
        body = strike(size * np.array([900, 1750, 2900]), rng.uniform(0.01, 0.04), seconds, rng)
        body += 0.4 * band_noise(body.size, 1500, 6000, rng) * decay(seconds, 0.01)
    elif label == "cymbals":
        body = 0.3 * band_noise(length(seconds), 1500 * size, 7500, rng)
        body *= decay(seconds, rng.uniform(0.1, 0.4))
        body += strike(rng.uniform(700, 5000, 15), rng.uniform(0.1, 0.4), seconds, rng) / 15
    else:
        base, bend = (280, 0.5) if label == "large_gong" else (480, -0.35)
        ratios = np.array([1.0, 1.52, 2.1, 2.76, 3.4, 4.5]) * rng.normal(1, 0.02, 6)
        body = strike(base * size * ratios, rng.uniform(0.1, 0.4), seconds, rng, bend)
        body += 0.2 * band_noise(body.size, 500, 5000, rng) * decay(seconds, 0.03)
    return place([body], [rng.uniform(0, 0.2 * seconds)], seconds)


@dataclass(frozen=True)
class Stroke:
    """How a drum skin is hit."""

    modes: tuple[int, ...]
    """Harmonics of the skin that sound; a loaded skin is nearly harmonic."""
    ring: float
    """Decay of the modes in seconds."""
    noise: float
    """Level of the slap."""
    brightness: float
    """Center of the slap in Hz."""
    bend: float = 0.0
    """Share by which the pitch starts too high."""


STROKES = {
    "bass": Stroke((1,), 0.25, 0.1, 400),
    "bass_bent": Stroke((1,), 0.25, 0.1, 400, bend=0.6),
    "bass_damped": Stroke((1,), 0.03, 0.4, 400),
    "treble": Stroke((2, 3), 0.2, 0.2, 2500),
    "treble_damped": Stroke((2, 3), 0.03, 0.5, 2500),
    "rim": Stroke((3, 4, 5), 0.08, 0.3, 4500),
    "slap": Stroke((4,), 0.02, 1.5, 3000),
    "both": Stroke((1, 2, 3), 0.2, 0.3, 1500),
    "both_bent": Stroke((1, 2, 3), 0.2, 0.3, 1500, bend=0.6),
    "finger": Stroke((2,), 0.1, 0.3, 1000),
}


def stroke(label: str, seconds: float, rng: Rng) -> Wave:
    """One stroke of the given type, on a drum of any tonic."""
    return _hit(STROKES[label], rng.choice(list(TONICS.values())), seconds, rng)


def tonic(label: str, seconds: float, rng: Rng) -> Wave:
    """One ringing stroke of any type, on a drum of the given tonic."""
    ringing = [kind for kind in STROKES.values() if kind.ring >= 0.1 and not kind.bend]
    return _hit(ringing[rng.integers(len(ringing))], TONICS[label], seconds, rng)


def _hit(kind: Stroke, tonic: float, seconds: float, rng: Rng) -> Wave:
    tuned = tonic * 2 ** (rng.normal(0, 0.1) / 12)
    modes = tuned * np.array(kind.modes) * rng.normal(1, 0.01, len(kind.modes))
    ring = kind.ring * rng.uniform(0.6, 1.6)
    body = strike(modes, ring, seconds, rng, kind.bend * rng.uniform(0.6, 1.4))
    center = kind.brightness * rng.uniform(0.7, 1.4)
    slap = band_noise(body.size, center / 2, min(center * 2, 7500), rng) * decay(seconds, 0.01)
    return place([body + kind.noise * slap], [rng.uniform(0, 0.2 * seconds)], seconds)


def note(label: str, seconds: float, rng: Rng) -> Wave:
    """A note of the given MIDI pitch on a random instrument, plucked or sustained."""
    frequency = 440 * 2 ** ((int(label) - 69 + rng.normal(0, 0.05)) / 12)
    vibrato = rng.uniform(0, 0.01) * np.sin(2 * np.pi * rng.uniform(4, 7) * times(seconds))
    partials = np.arange(1, 31)
    rolloff = partials ** -rng.uniform(0.6, 1.6) * rng.uniform(0.5, 1, partials.size)
    rolloff[1::2] *= rng.choice([0.3, 1.0])  # clarinet-like, or full
    tone = harmonics(frequency * (1 + vibrato), rolloff)
    plucked = decay(seconds, rng.uniform(0.2, 0.6))
    sustained = glide([0, 1, 1, 0.8, 0], tone.size)
    return tone * (plucked if rng.uniform() < 0.5 else sustained)


def melody(seconds: float, rng: Rng) -> Wave:
    """A random tune of notes and strokes, for the unlabeled corpus."""
    beat = rng.uniform(0.2, 0.5)
    starts = np.arange(0, seconds, beat)
    scale = rng.integers(40, 64) + np.array([0, 2, 4, 7, 9, 12, 14, 16])
    notes = [note(str(rng.choice(scale)), beat * rng.uniform(1, 2), rng) for _ in starts]
    drums = [stroke(str(rng.choice(list(STROKES))), beat, rng) for _ in starts]
    return place(notes, starts.tolist(), seconds) + rng.uniform(0, 2) * place(
        drums, starts.tolist(), seconds
    )
