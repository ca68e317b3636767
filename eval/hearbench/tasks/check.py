"""Checks every file of a task folder: present, decodable, of the right rate and length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import soundfile

from hearbench.audio import AudioError, load_audio
from hearbench.in_threads import in_threads
from hearbench.tasks.audio import check_audio, clip_paths
from hearbench.tasks.description import TaskError
from hearbench.tasks.folders import Task, is_sample_rate, read_task

TOLERANCE = 0.01  # seconds that clips may differ from the task's duration: resampling rounds


@dataclass(frozen=True)
class ValidationReport:
    """The result of `check_task`."""

    task: Task | None
    """The task; None if its descriptions are broken."""
    problems: tuple[str, ...]
    """One line each; empty if the task is valid."""


def check_task(path: Path) -> ValidationReport:
    """Check every file of a task folder.

    At each sample rate that is present, all clips must be there, decodable to the end, mono and at
    the folder's rate. If the task has a duration, they must all have it and be equally long, as
    heareval puts them into one batch.
    """
    task = None
    try:
        task = read_task(path)
        rates = sorted(int(p.name) for p in task.path.iterdir() if is_sample_rate(p.name))
        if not rates:
            raise TaskError(f"{path} contains no audio: no folder is named after a sample rate")
        for rate in rates:
            check_audio(task, rate)
    except TaskError as error:
        return ValidationReport(task, (str(error),))
    seconds = task.metadata["sample_duration"]
    problems = [line for rate in rates for line in _check_rate(task, rate, seconds)]
    return ValidationReport(task, tuple(problems))


def _check_rate(task: Task, rate: int, seconds: float | None) -> Iterator[str]:
    files = clip_paths(task, rate)
    found = in_threads(
        lambda file: _decode(file, rate),
        files,
        desc=f"checking {task.path.name}",
        unit="clip",
        leave=False,
    )
    yield from (problem for problem in found if isinstance(problem, str))
    lengths = {
        file: samples
        for file, samples in zip(files, found, strict=True)
        if isinstance(samples, int)
    }
    if seconds is None or not lengths:
        return
    usual, _ = Counter(lengths.values()).most_common(1)[0]
    if abs(usual / rate - seconds) > TOLERANCE:
        yield (
            f"{task.path / str(rate)}: clips last {usual / rate:g} s, but "
            f"task_metadata.json says {seconds:g} s"
        )
    for file, samples in lengths.items():
        if samples != usual:
            yield f"{file}: {samples} samples, but the other clips have {usual}"


def _decode(file: Path, rate: int) -> int | str:
    """Number of samples, or what is wrong with the file."""
    try:
        header = soundfile.info(file)
        if header.samplerate != rate:
            return f"{file}: {header.samplerate} Hz in a folder of {rate} Hz"
        if header.channels != 1:
            return f"{file}: {header.channels} channels, but HEAR tasks are mono"
        return load_audio(file, rate).size
    except soundfile.LibsndfileError as error:
        return f"{file}: not decodable ({error.error_string.rstrip('.')})"
    except AudioError as error:
        return str(error)
