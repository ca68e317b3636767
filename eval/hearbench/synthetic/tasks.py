"""The ten miniature tasks: each is of the kind of one HEAR task, but is not that task.

The number of clips is a budget: heareval's probes should take a few minutes on two cores with three
systems and three seeds. Small validation splits shorten them most, since early stopping waits for a
strictly better score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Literal

import numpy as np

from hearbench.synthetic.sounds import Rng, Sound, Wave, place, record, render, unit

Split = Literal["train", "valid", "test"]

SPLITS: tuple[Split, ...] = ("train", "valid", "test")

PERCUSSION = {
    "clapper": Sound(noise=0.9, band=(1500, 6000), decay=0.02),
    "cymbals": Sound(pitch=(2000, 4000), noise=0.8, band=(2500, 7500), decay=0.2),
    "large_gong": Sound(pitch=(250, 450), partials=6, sweep=-0.4, noise=0.1, decay=0.3),
    "small_gong": Sound(pitch=(350, 600), partials=6, sweep=0.4, noise=0.1, decay=0.3),
}
STROKES = {
    f"{skin}_{kind}": Sound((110 * harmonic, 160 * harmonic), partials, bend, noise, band, decay)
    for skin, harmonic, partials, band in (("bass", 1, 2, (80, 600)), ("treble", 3, 3, (800, 5000)))
    for kind, bend, noise, decay in (
        ("open", 0.0, 0.1, 0.2),
        ("bent", -0.6, 0.1, 0.2),
        ("damped", 0.0, 0.3, 0.03),
        ("slap", 0.0, 0.8, 0.02),
        ("rolled", 0.0, 0.5, 0.1),
    )
}
TONICS = {
    name: Sound((hertz, 1.005 * hertz), 4, noise=0.2, decay=0.15)
    for name, hertz in {
        "b": 123.5,
        "c": 130.8,
        "c_sharp": 138.6,
        "d": 146.8,
        "d_sharp": 155.6,
        "e": 164.8,
    }.items()
}
PITCHES = {
    str(midi): Sound((hertz := 440 * 2 ** ((midi - 69) / 12), 1.003 * hertz), 12, decay=0.4)
    for midi in range(21, 109)
}
EMOTIONS = {
    "anger": Sound((180, 350), 16, -0.5, noise=0.15, rate=5),
    "disgust": Sound((110, 200), 10, -0.7, noise=0.2, rate=2.5),
    "fear": Sound((220, 400), 6, 0.1, tremolo=8, rate=4),
    "happiness": Sound((180, 380), 10, 0.5, rate=4.5),
    "neutral": Sound((120, 220), 8, rate=3.5),
    "sadness": Sound((100, 190), 4, -0.3, rate=2),
}
VOICE = Sound((90, 280), 12, 0.2, noise=0.05, rate=3)
WORDS = {
    "".join("abcd"[level] for level in word): word
    for levels in combinations(range(4), 3)
    for word in list(permutations(levels))[:3]
}
"""Three pitch levels in a row; words of the same levels differ only in their order."""
LANGUAGES = {
    f"{melody}_{rate}": Sound((120, 260), partials, sweep, noise, (1500, 6000), rate=rate)
    for rate, partials in ((3, 12), (4, 6), (6, 3))
    for melody, sweep, noise in (("rising", 0.6, 0.1), ("falling", -0.6, 0.2), ("level", 0.0, 0.3))
}
ENVIRONMENTS = {
    "alarm": Sound((800, 2500), rate=4, regular=True),
    "birds": Sound((2500, 5500), sweep=0.6, decay=0.08, rate=5),
    "bubbles": Sound((400, 1500), sweep=0.8, decay=0.03, rate=14),
    "clock": Sound((3000, 5000), noise=0.5, decay=0.005, rate=3, regular=True),
    "crackle": Sound(noise=1.0, band=(1500, 6000), decay=0.004, rate=8),
    "crickets": Sound((3500, 5500), tremolo=35),
    "engine": Sound((35, 90), partials=24, noise=0.2, band=(50, 500)),
    "footsteps": Sound(noise=1.0, band=(80, 700), decay=0.04, rate=2, regular=True),
    "knocks": Sound((250, 500), partials=3, noise=0.1, decay=0.03, rate=5, regular=True),
    "rain": Sound(noise=1.0, band=(1000, 7000), decay=0.01, rate=60),
    "siren": Sound((600, 1000), partials=3, sweep=0.6, rate=1.2, regular=True),
    "waves": Sound(noise=1.0, band=(100, 2500), tremolo=0.6),
    "wind": Sound(noise=1.0, band=(150, 700), tremolo=1.5),
}


def word(label: str, seconds: float, rng: Rng) -> Wave:
    """Three chirps of the word's pitch levels, one after another."""
    base, sweep = rng.uniform(220, 260), rng.uniform(-0.2, 0.2)
    pitches = [base * 2 ** (0.6 * level) for level in WORDS[label]]
    third = seconds / 3.5
    chirps = [render(Sound((p, 1.02 * p), 8, sweep, 0.05), 0.9 * third, rng) for p in pitches]
    starts = rng.uniform(0, 0.3 * third) + third * np.arange(3)
    return unit(place(chirps, starts.tolist(), seconds))


def voices(label: str, seconds: float, rng: Rng) -> Wave:
    """Simultaneous voices, whose number is the label, at most ten."""
    silence = np.zeros(round(seconds * 16_000))
    return sum((render(VOICE, seconds, rng) for _ in range(int(label))), start=silence)


@dataclass(frozen=True)
class MiniatureTask:
    """A generated classification task in the format of HEAR 2021."""

    name: str
    """Folder and task name; ends in ``-mini``, so that nobody takes it for the original."""
    mirrors: str
    """The HEAR task whose kind it imitates."""
    classes: tuple[str, ...]
    """Labels, in the order of the vocabulary."""
    render: Callable[[str, float, Rng], Wave]
    """(label, seconds, rng) -> the sound of one label, [n]."""
    seconds: float
    """Length of every clip."""
    clips: tuple[int, int, int]
    """Clips in train, valid and test: per class, or in all if clips are mixed."""
    metrics: tuple[str, ...] = ("top1_acc",)
    """heareval's names; the first is the task's score."""
    most_labels: int = 1
    """Maximum number of labels per clip; above 1 the sounds of the labels are mixed."""

    @property
    def prediction_type(self) -> str:
        """Heareval's name for one label per clip, or several."""
        return "multiclass" if self.most_labels == 1 else "multilabel"

    def labels(self, split: Split) -> list[tuple[str, ...]]:
        """The labels of every clip of a split, in order."""
        count = self.clips[SPLITS.index(split)]
        if self.most_labels == 1:
            return [(label,) for label in self.classes for _ in range(count)]
        rng = np.random.default_rng([SPLITS.index(split), count])
        sizes = rng.integers(1, self.most_labels, count, endpoint=True)
        return [tuple(sorted(rng.choice(self.classes, n, replace=False).tolist())) for n in sizes]

    def clip(self, labels: tuple[str, ...], rng: Rng) -> Wave:
        """One recorded clip of these labels, [n], its peak below full scale."""
        levels = 10 ** (rng.uniform(-3, 3, len(labels)) / 20)
        return record(levels @ [self.render(label, self.seconds, rng) for label in labels], rng)


def _task(
    name: str, mirrors: str, kinds: dict[str, Sound], seconds: float, *clips: int, **more: object
) -> MiniatureTask:
    def one(label: str, seconds: float, rng: Rng) -> Wave:
        return render(kinds[label], seconds, rng)

    return MiniatureTask(name, mirrors, tuple(kinds), one, seconds, clips, **more)  # type: ignore[arg-type]


TASKS: tuple[MiniatureTask, ...] = (
    _task("percussion-mini", "Beijing Opera", PERCUSSION, 1.0, 18, 4, 8),
    _task("strokes-mini", "Mridangam Stroke", STROKES, 0.6, 8, 2, 5),
    _task("tonics-mini", "Mridangam Tonic", TONICS, 0.6, 14, 4, 8),
    _task(
        "pitch-mini", "NSynth Pitch", PITCHES, 0.75, 2, 1, 1, metrics=("pitch_acc", "chroma_acc")
    ),
    _task("emotion-mini", "CREMA-D", EMOTIONS, 1.5, 14, 4, 8),
    MiniatureTask(
        "speakers-mini", "LibriCount", tuple(map(str, range(11))), voices, 2.0, (8, 2, 5)
    ),
    MiniatureTask("keywords-mini", "Speech Commands", tuple(WORDS), word, 1.0, (8, 2, 5)),
    _task("languages-mini", "VoxLingua107", LANGUAGES, 2.0, 8, 2, 5),
    _task("environment-mini", "ESC-50", ENVIRONMENTS, 1.5, 6, 2, 4),
    _task("tagging-mini", "FSD50K", ENVIRONMENTS, 1.5, 90, 30, 50, metrics=("mAP",), most_labels=3),
)


def corpus_clip(rng: Rng) -> Wave:
    """One clip of 2 to 10 s for the unlabeled corpus, [n]: one sound, or two mixed."""
    kinds = [PERCUSSION, STROKES, TONICS, PITCHES, EMOTIONS, LANGUAGES, ENVIRONMENTS]
    seconds = rng.uniform(2.0, 10.0)
    sounds = []
    for _ in range(rng.integers(1, 3)):
        sound = list(kinds[rng.integers(len(kinds))].values())
        chosen = sound[rng.integers(len(sound))]
        rate = chosen.rate or (rng.uniform(1, 5) if chosen.decay < 1 else 0.0)  # single hits repeat
        sounds.append(render(chosen._replace(rate=rate), seconds, rng))
    return record(10 ** (-rng.uniform(0, 12, len(sounds)) / 20) @ sounds, rng)
