"""Renderers of the environmental sounds, which the tagging task mixes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hearbench.synthetic.synthesis import (
    Rng,
    Wave,
    band_noise,
    colored_noise,
    decay,
    glide,
    harmonics,
    length,
    oscillate,
    place,
    strike,
    times,
    unit,
)


def environment(label: str, seconds: float, rng: Rng) -> Wave:
    """One environmental sound, at unit deviation."""
    return unit(ENVIRONMENTS[label](seconds, rng))


def _rain(seconds: float, rng: Rng) -> Wave:
    drops = _scatter(_tick, rng.uniform(30, 80), seconds, rng)
    return drops + 0.15 * colored_noise(drops.size, rng.uniform(0, 2), rng)


def _crackle(seconds: float, rng: Rng) -> Wave:
    pops = _scatter(_tick, rng.uniform(4, 12), seconds, rng)
    return pops + 0.05 * colored_noise(pops.size, 6, rng)


def _wind(seconds: float, rng: Rng) -> Wave:
    low = rng.uniform(150, 500)
    noise = band_noise(length(seconds), low, 3 * low, rng)
    return noise * glide(rng.uniform(0.1, 1, round(2 * seconds) + 2), noise.size)


def _waves(seconds: float, rng: Rng) -> Wave:
    noise = colored_noise(length(seconds), rng.uniform(3, 6), rng)
    swell = np.sin(np.pi * rng.uniform(0.5, 1) * times(seconds) + rng.uniform(0, np.pi))
    return noise * (0.1 + swell**2)


def _engine(seconds: float, rng: Rng) -> Wave:
    n = length(seconds)
    speed = rng.uniform(35, 90) * glide(rng.uniform(0.85, 1.15, 3), n)
    hum = harmonics(speed, np.arange(1, 25) ** -rng.uniform(0.3, 1))
    return unit(hum) + 0.4 * colored_noise(n, 4, rng)


def _siren(seconds: float, rng: Rng) -> Wave:
    sweep = np.sin(2 * np.pi * rng.uniform(0.5, 2) * times(seconds) + rng.uniform(0, 6))
    f0 = rng.uniform(600, 1000) * 2 ** (rng.uniform(0.3, 0.6) * sweep)
    return harmonics(f0, [1, rng.uniform(0, 0.5), rng.uniform(0, 0.5)])


def _alarm(seconds: float, rng: Rng) -> Wave:
    tone = oscillate(np.full(length(seconds), rng.uniform(800, 2500)))
    return tone * (times(seconds) * rng.uniform(2, 6) % 1 < 0.5)


def _clock(seconds: float, rng: Rng) -> Wave:
    return _regular(_tick, rng.uniform(2, 4), seconds, rng)


def _footsteps(seconds: float, rng: Rng) -> Wave:
    def step(rng: Rng) -> Wave:
        return band_noise(length(0.15), 80, rng.uniform(400, 900), rng) * decay(0.15, 0.03)

    return _regular(step, rng.uniform(1.5, 3), seconds, rng)


def _knocks(seconds: float, rng: Rng) -> Wave:
    wood = rng.uniform(250, 500) * np.array([1, 1.6, 2.4])

    def knock(rng: Rng) -> Wave:
        return strike(wood, 0.03, 0.15, rng)

    return _regular(knock, rng.uniform(4, 7), seconds, rng)


def _birds(seconds: float, rng: Rng) -> Wave:
    def chirp(rng: Rng) -> Wave:
        n = length(rng.uniform(0.05, 0.15))
        return oscillate(glide(rng.uniform(2500, 6000, 3), n)) * np.hanning(n)

    return _scatter(chirp, rng.uniform(3, 8), seconds, rng)


def _crickets(seconds: float, rng: Rng) -> Wave:
    t = times(seconds)
    trill = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(25, 45) * t)
    return oscillate(np.full(t.size, rng.uniform(3500, 5500))) * trill * (t * 2 % 1 < 0.7)


def _bubbles(seconds: float, rng: Rng) -> Wave:
    def bubble(rng: Rng) -> Wave:
        n = length(0.06)
        return oscillate(rng.uniform(400, 1500) * glide([1, 1.8], n)) * decay(0.06, 0.015)

    return _scatter(bubble, rng.uniform(8, 20), seconds, rng)


def _tick(rng: Rng) -> Wave:
    """A click of random strength and color."""
    center = rng.uniform(1500, 5000)
    return (
        rng.uniform(0.3, 1) * band_noise(length(0.02), center / 2, center, rng) * decay(0.02, 0.004)
    )


def _scatter(event: Callable[[Rng], Wave], rate: float, seconds: float, rng: Rng) -> Wave:
    """Events at random moments, `rate` a second, at least one."""
    starts = rng.uniform(0, 0.95 * seconds, max(1, rng.poisson(rate * seconds)))
    return place([event(rng) for _ in starts], starts.tolist(), seconds)


def _regular(event: Callable[[Rng], Wave], rate: float, seconds: float, rng: Rng) -> Wave:
    """Events in a steady beat, `rate` a second, never exactly in time."""
    beats = np.arange(rng.uniform(0, 0.8 / rate), 0.95 * seconds, 1 / rate)
    starts = np.maximum(beats + rng.normal(0, 0.01, beats.size), 0)
    return place([event(rng) for _ in starts], starts.tolist(), seconds)


ENVIRONMENTS: dict[str, Callable[[float, Rng], Wave]] = {
    "alarm": _alarm,
    "birds": _birds,
    "bubbles": _bubbles,
    "clock": _clock,
    "crackle": _crackle,
    "crickets": _crickets,
    "engine": _engine,
    "footsteps": _footsteps,
    "knocks": _knocks,
    "rain": _rain,
    "siren": _siren,
    "waves": _waves,
    "wind": _wind,
}
