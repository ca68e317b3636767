"""The audio files of a task, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from hearbench.tasks.description import TaskError, read_json
from hearbench.tasks.folders import Task


@dataclass(frozen=True)
class Clip:
    """One audio file of a task."""

    split: str
    name: str
    path: Path
    samples: int


def find_clips(task: Task, sample_rate: int) -> list[Clip]:
    """Every clip of `task` at `sample_rate` Hz, with its length as its header tells it.

    Raises:
        TaskError: for a file that is no audio, of another rate, or with several channels.
    """
    clips = []
    for split in task.splits:
        for name in read_json(task.path / f"{split}.json"):
            path = task.path / str(sample_rate) / split / name
            try:
                header = soundfile.info(str(path))
            except (soundfile.LibsndfileError, OSError) as error:
                raise TaskError(f"{path}: not decodable ({error}): unpack the task again") from None
            if (header.samplerate, header.channels) != (sample_rate, 1):
                raise TaskError(
                    f"{path}: {header.samplerate} Hz with {header.channels} channel(s), the model "
                    f"wants {sample_rate} Hz mono: resample the task"
                )
            clips.append(Clip(split, name, path, header.frames))
    return clips


def equal_batches(clips: Sequence[Clip], most_samples: int) -> list[list[Clip]]:
    """Clips of equal length together, the longest first, at most so many samples a batch."""
    by_length: dict[int, list[Clip]] = {}
    for clip in clips:
        by_length.setdefault(clip.samples, []).append(clip)
    batches = []
    for samples, alike in sorted(by_length.items(), reverse=True):
        size = max(1, most_samples // max(1, samples))
        batches += [alike[i : i + size] for i in range(0, len(alike), size)]
    return batches
