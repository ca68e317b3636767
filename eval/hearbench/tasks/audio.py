"""The audio of a task, `<rate>/<split>/<clip>`: checks, digests and lists of clips."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import soundfile

from hearbench.digests import digest_of
from hearbench.in_threads import in_threads
from hearbench.tasks.description import TaskError
from hearbench.tasks.folders import Task, is_sample_rate


@dataclass(frozen=True)
class Clip:
    """One audio file of a task."""

    split: str
    name: str
    path: Path
    samples: int


def find_clips(task: Task, sample_rate: int) -> list[Clip]:
    """Every clip of `task` at `sample_rate` Hz, with the length in its header.

    Raises:
        TaskError: for a file that is not audio, has another rate, or several channels.
    """
    clips = []
    for split in task.splits:
        for name in task.labels[split]:
            path = task.path / str(sample_rate) / split / name
            try:
                header = soundfile.info(str(path))
            except (soundfile.LibsndfileError, OSError) as error:
                raise TaskError(f"{path}: not decodable ({error}): unpack the task again") from None
            if (header.samplerate, header.channels) != (sample_rate, 1):
                raise TaskError(
                    f"{path}: {header.samplerate} Hz with {header.channels} channel(s), but the "
                    f"model needs {sample_rate} Hz mono: fetch an official task again (hearbench "
                    f"fetch-tasks FOLDER --rates {sample_rate}), or convert the clips of your task"
                )
            clips.append(Clip(split, name, path, header.frames))
    return clips


def with_audio(task: Task, sample_rates: Collection[int]) -> Task:
    """The task with the digests of its labels and audio at these sample rates, in Hz.

    Raises:
        TaskError: if audio is missing, see `check_audio`.
    """
    descriptions = [path for path in task.path.iterdir() if path.suffix in (".json", ".csv")]
    digests, by_file = {}, {}
    for rate in sorted(sample_rates):
        check_audio(task, rate)
        files = sorted(descriptions) + clip_paths(task, rate)
        bar = {"desc": f"reading {task.path.name}", "unit": "file", "leave": False}
        contents = in_threads(digest_of, files, **bar)
        total = hashlib.sha256()
        for file, digest in zip(files, contents, strict=True):
            name = file.relative_to(task.path).as_posix()
            total.update(name.encode() + digest)
            by_file[name] = digest
        digests[rate] = total.hexdigest()[:8]
    return replace(task, digests=digests, contents=by_file)


def check_unchanged(task: Task, file: Path) -> None:
    """Check that a file of `task` has the content that the task's digests cover, if it has any.

    Raises:
        TaskError: naming the file.
    """
    before = task.contents.get(file.relative_to(task.path).as_posix())
    if before is not None and digest_of(file) != before:
        raise TaskError(
            f"{file} has changed since the evaluation began: run the same command again"
        )


def check_audio(task: Task, sample_rate: int) -> None:
    """Check that every clip of `task` exists at `sample_rate` Hz.

    Raises:
        TaskError: naming the first missing folder or clip.
    """
    for split in task.splits:
        folder = task.path / str(sample_rate) / split
        if not folder.is_dir():
            rates = sorted(p.name for p in task.path.iterdir() if is_sample_rate(p.name))
            raise TaskError(
                f"{folder} is missing: the model needs {sample_rate} Hz and the task has "
                f"{', '.join(rates) or 'no audio'}; fetch an official task again (hearbench "
                f"fetch-tasks FOLDER --rates {sample_rate}), add the clips to your task, or pick "
                "another model"
            )
        with os.scandir(folder) as entries:
            present = {entry.name for entry in entries if entry.is_file()}
        if missing := sorted(task.labels[split].keys() - present):
            raise TaskError(
                f"{folder}: {len(missing)} clip(s) are missing, the first is {missing[0]}"
            )


def clip_paths(task: Task, sample_rate: int) -> list[Path]:
    """The audio files that the task's splits name, in their order."""
    return [
        task.path / str(sample_rate) / split / clip
        for split in task.splits
        for clip in task.labels[split]
    ]
