"""The ten miniature tasks: each mirrors the kind of one HEAR task, and none is that task.

The number of clips is a budget: with three systems and three seeds, heareval's probes should take a
few minutes on two cores. Small validation splits shorten them most, for their score has few values
and early stopping waits for a strictly better one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hearbench.synthetic import environment, music, speech
from hearbench.synthetic.synthesis import Rng, Wave, record

Split = Literal["train", "valid", "test"]
Render = Callable[[str, float, Rng], Wave]

SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@dataclass(frozen=True)
class MiniatureTask:
    """A generated classification task in the format of HEAR 2021."""

    name: str
    """Folder and task name; ends in ``-mini``, so that nobody takes it for the original."""
    mirrors: str
    """The HEAR task whose kind it copies."""
    classes: tuple[str, ...]
    """Labels, in the order of the vocabulary."""
    render: Render
    """(label, seconds, rng) -> the sound of one label, [n]."""
    seconds: float
    """Length of every clip."""
    clips: tuple[int, int, int]
    """Clips in train, valid and test: of each class, or in all if clips are mixed."""
    metrics: tuple[str, ...] = ("top1_acc",)
    """heareval's names; the first is the task's score."""
    most_labels: int = 1
    """Labels that a clip has at most; above 1 the sounds of the labels are mixed."""

    @property
    def prediction_type(self) -> str:
        """The name in heareval for one label a clip, or several."""
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
        sounds = [self.render(label, self.seconds, rng) for label in labels]
        return record(levels @ sounds, rng)


TASKS: tuple[MiniatureTask, ...] = (
    MiniatureTask(
        name="percussion-mini",
        mirrors="Beijing Opera",
        classes=music.PERCUSSION,
        render=music.percussion,
        seconds=1.0,
        clips=(18, 4, 8),
    ),
    MiniatureTask(
        name="strokes-mini",
        mirrors="Mridangam Stroke",
        classes=tuple(music.STROKES),
        render=music.stroke,
        seconds=0.6,
        clips=(8, 2, 5),
    ),
    MiniatureTask(
        name="tonics-mini",
        mirrors="Mridangam Tonic",
        classes=tuple(music.TONICS),
        render=music.tonic,
        seconds=0.6,
        clips=(14, 4, 8),
    ),
    MiniatureTask(
        name="pitch-mini",
        mirrors="NSynth Pitch",
        classes=music.PITCHES,
        render=music.note,
        seconds=0.75,
        clips=(2, 1, 1),
        metrics=("pitch_acc", "chroma_acc"),
    ),
    MiniatureTask(
        name="emotion-mini",
        mirrors="CREMA-D",
        classes=tuple(speech.EMOTIONS),
        render=speech.emotion,
        seconds=1.5,
        clips=(14, 4, 8),
    ),
    MiniatureTask(
        name="speakers-mini",
        mirrors="LibriCount",
        classes=speech.COUNTS,
        render=speech.speaker_count,
        seconds=2.0,
        clips=(8, 2, 5),
    ),
    MiniatureTask(
        name="keywords-mini",
        mirrors="Speech Commands",
        classes=speech.KEYWORDS,
        render=speech.keyword,
        seconds=1.0,
        clips=(8, 2, 5),
    ),
    MiniatureTask(
        name="languages-mini",
        mirrors="VoxLingua107",
        classes=speech.LANGUAGES,
        render=speech.language,
        seconds=2.0,
        clips=(8, 2, 5),
    ),
    MiniatureTask(
        name="environment-mini",
        mirrors="ESC-50",
        classes=tuple(environment.ENVIRONMENTS),
        render=environment.environment,
        seconds=1.5,
        clips=(6, 2, 4),
    ),
    MiniatureTask(
        name="tagging-mini",
        mirrors="FSD50K",
        classes=tuple(environment.ENVIRONMENTS),
        render=environment.environment,
        seconds=1.5,
        clips=(90, 30, 50),
        metrics=("mAP",),
        most_labels=3,
    ),
)
