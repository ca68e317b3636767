"""Renderers of the speech-like tasks: emotions, speaker counts, keywords and languages."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from hearbench.synthetic.synthesis import Rng, Wave, glide, length, place, times, unit
from hearbench.synthetic.voice import CONSONANTS, VOWELS, Speaker, some_speaker, utter


@dataclass(frozen=True)
class Prosody:
    """How an emotion moves a voice away from its own neutral way of speaking."""

    pitch: float
    """Mean, in semitones."""
    span: float
    """Size of the movements, in semitones."""
    slope: float
    """Fall (negative) or rise over the utterance, in semitones."""
    rate: float
    """Syllables a second."""
    opening: float
    """Glottal opening as a multiple: below 1 is pressed."""
    tremor: float = 0.0
    """Share of the loudness that trembles."""


EMOTIONS = {
    "anger": Prosody(4, 5, -3, 6.0, 0.55),
    "disgust": Prosody(-4, 2, -5, 3.0, 0.7),
    "fear": Prosody(8, 1.5, 1, 7.0, 1.2, tremor=0.8),
    "happiness": Prosody(6, 6, 4, 5.0, 1.0),
    "neutral": Prosody(0, 1.0, -1, 4.5, 1.0),
    "sadness": Prosody(-3, 0.5, -3, 2.5, 1.5),
}

COUNTS = tuple(str(count) for count in range(11))

# The same two syllables in opposite order: the average spectrum can't tell the two words apart.
KEYWORD_PAIRS = (
    ("sato", "tosa"),
    ("mika", "kami"),
    ("nopu", "puno"),
    ("feli", "life"),
    ("taku", "kuta"),
    ("xeno", "noxe"),
)
KEYWORDS = tuple(word for pair in KEYWORD_PAIRS for word in pair)

LANGUAGES = ("anso", "belu", "cori", "damu", "eloa", "feri", "goma", "hilu", "isto", "jona")


def emotion(label: str, seconds: float, rng: Rng) -> Wave:
    """Random syllables in the prosody of the given emotion."""
    prosody = EMOTIONS[label]
    voice = some_speaker(rng)
    voice = replace(voice, opening=min(0.95, voice.opening * prosody.opening))
    rate = prosody.rate * rng.uniform(0.85, 1.15)
    syllables = max(2, round(seconds * rate * rng.uniform(0.8, 0.95)))
    movement = prosody.span * rng.normal(0, 1, 2 * syllables)
    melody = prosody.pitch + movement + np.linspace(0, prosody.slope, movement.size)
    speech = _babble(syllables, rate, melody.tolist(), voice, rng)
    trembling = 1 + prosody.tremor * np.sin(2 * np.pi * 7 * times(speech.size / length(1)))
    return place([speech * trembling], [0.02 * seconds], seconds)


def speaker_count(label: str, seconds: float, rng: Rng) -> Wave:
    """That many people talking at once; none is background noise alone."""
    mixture = np.zeros(length(seconds))
    for _ in range(int(label)):
        talk = conversation(seconds, some_speaker(rng), rng)
        mixture += talk * 10 ** (rng.uniform(-4, 4) / 20)
    return mixture


def keyword(label: str, seconds: float, rng: Rng) -> Wave:
    """One of the invented words by a random speaker, at a random moment and pace."""
    pace = rng.uniform(0.75, 1.2)
    durations = [
        pace * (0.16 if sound in VOWELS else 0.1) * rng.uniform(0.8, 1.2) for sound in label
    ]
    melody = rng.normal(0, 2, 3).tolist()
    word = utter(label, durations, melody, some_speaker(rng), rng)
    return place([word], [rng.uniform(0, max(0.0, seconds - sum(durations)))], seconds)


@dataclass(frozen=True)
class Language:
    """Statistics that a speaker of a language keeps to."""

    vowels: tuple[float, ...]
    """Probability of each vowel."""
    consonants: tuple[float, ...]
    """Probability of each consonant."""
    closed: float
    """Share of syllables that end in a consonant."""
    rate: float
    """Syllables a second."""
    stress: float
    """How much longer and higher every second syllable is."""


@cache
def _language(name: str) -> Language:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return Language(
        vowels=tuple(rng.dirichlet(np.full(len(VOWELS), 0.7))),
        consonants=tuple(rng.dirichlet(np.full(len(CONSONANTS), 0.4))),
        closed=rng.uniform(0, 0.6),
        rate=rng.uniform(3, 7),
        stress=rng.uniform(0, 0.8),
    )


def language(label: str, seconds: float, rng: Rng) -> Wave:
    """Speech of an invented language: its sounds, its syllables, its rhythm."""
    speech = _language(label)
    sounds: list[str] = []
    durations: list[float] = []
    melody: list[float] = []
    beat = 1 / (speech.rate * rng.uniform(0.9, 1.1))
    while sum(durations) < seconds:
        stressed = len(melody) % 2
        coda = rng.uniform() < speech.closed
        sounds.append(rng.choice(CONSONANTS, p=speech.consonants))
        sounds.append(rng.choice(list(VOWELS), p=speech.vowels))
        durations += [0.35 * beat, 0.65 * beat * (1 + speech.stress * stressed)]
        if coda:
            sounds.append(rng.choice(CONSONANTS, p=speech.consonants))
            durations.append(0.35 * beat)
        melody.append(4 * speech.stress * stressed + rng.normal(0, 0.7))
    voice = utter(sounds, durations, melody, some_speaker(rng), rng)
    return voice[: length(seconds)]


def conversation(seconds: float, voice: Speaker, rng: Rng) -> Wave:
    """One person's random talk, with pauses."""
    rate = rng.uniform(3.5, 6)
    speech = _babble(round(seconds * rate) + 1, rate, rng.normal(0, 2, 8).tolist(), voice, rng)
    pauses = glide(rng.uniform(size=round(6 * seconds) + 2) > 0.25, length(seconds))
    return unit(place([speech], [0.0], seconds) * pauses)


def _babble(syllables: int, rate: float, melody: list[float], voice: Speaker, rng: Rng) -> Wave:
    """Consonant-vowel syllables of equal probability."""
    sounds = [
        sound
        for _ in range(syllables)
        for sound in (str(rng.choice(CONSONANTS)), str(rng.choice(list(VOWELS))))
    ]
    durations = rng.uniform(0.8, 1.2, len(sounds)) * np.tile([0.35, 0.65], syllables) / rate
    return utter(sounds, durations.tolist(), melody, voice, rng)
