"""Clips for the unlabeled corpus: talk, tunes, percussion and surroundings, alone or mixed.

They share the instruments and voices of the tasks but never a clip: corpus and tasks have seeds of
their own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hearbench.synthetic.environment import ENVIRONMENTS, environment
from hearbench.synthetic.music import PERCUSSION, melody, percussion
from hearbench.synthetic.speech import LANGUAGES, conversation, language
from hearbench.synthetic.synthesis import Rng, Wave, place, record, unit
from hearbench.synthetic.voice import some_speaker

SHORTEST, LONGEST = 2.0, 10.0  # seconds


def corpus_clip(rng: Rng) -> Wave:
    """One recorded clip of 2 to 10 s, [n]: one source, or two at different levels."""
    seconds = rng.uniform(SHORTEST, LONGEST)
    sounds = [SOURCES[rng.integers(len(SOURCES))](seconds, rng) for _ in range(rng.integers(1, 3))]
    levels = 10 ** (-rng.uniform(0, 12, len(sounds)) / 20)
    return record(levels @ [unit(sound) for sound in sounds], rng)


def _talk(seconds: float, rng: Rng) -> Wave:
    people = [some_speaker(rng) for _ in range(rng.integers(1, 4))]
    return np.sum([conversation(seconds, person, rng) for person in people], axis=0)


def _foreign_talk(seconds: float, rng: Rng) -> Wave:
    return language(str(rng.choice(LANGUAGES)), seconds, rng)


def _percussion(seconds: float, rng: Rng) -> Wave:
    starts = np.sort(rng.uniform(0, seconds, rng.integers(2, 4 * round(seconds))))
    hits = [percussion(str(rng.choice(PERCUSSION)), 1.0, rng) for _ in starts]
    return place(hits, starts.tolist(), seconds)


def _surroundings(seconds: float, rng: Rng) -> Wave:
    return environment(str(rng.choice(list(ENVIRONMENTS))), seconds, rng)


SOURCES: tuple[Callable[[float, Rng], Wave], ...] = (
    _talk,
    _foreign_talk,
    melody,
    _percussion,
    _surroundings,
)
