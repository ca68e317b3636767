"""Resampling of a task's audio to a rate that is missing in its folder.

A task folder contains `<rate>/<split>/<clip>`. If a system needs another rate, the clips at the
highest available rate are resampled by soxr and stored next to them, as 16-bit WAV like the
official ones. A file beside them, `.resampled`, records the source, so that they are resampled
again if it has changed.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection
from pathlib import Path

from filelock import FileLock

from hearbench.audio import load_audio, wav
from hearbench.in_threads import in_threads
from hearbench.tasks.audio import check_audio, clip_paths
from hearbench.tasks.description import TaskError
from hearbench.tasks.folders import Task, is_sample_rate

PART = ".part"
STAMP = ".resampled"


def provide_audio(task: Task, sample_rates: Collection[int]) -> list[str]:
    """Make sure that `task` has its audio at these rates, in Hz.

    An existing folder that was not resampled here is kept as it is, even if clips are missing.

    Returns:
        One note for each rate that was created.

    Raises:
        TaskError: if there is no audio to start from, it can't be decoded, or the task's folder
            can't be written.
    """
    notes = []
    for rate in sorted(sample_rates):
        target = task.path / str(rate)
        if _is_current(task, target):
            continue
        source = _source(task, rate)
        try:
            with FileLock(task.path / f".{rate}.lock"):
                if not _is_current(task, target):  # another evaluation may have made it meanwhile
                    _resample(task, source, rate)
        except OSError as error:
            raise TaskError(
                f"{task.path.name} has no audio at {rate} Hz, and it can't be written to "
                f"{target} ({error}): free some space, or resample the task elsewhere"
            ) from error
        lost = f", so there is nothing above {source / 2000:g} kHz" if source < rate else ""
        notes.append(
            f"{task.path.name}: audio at {rate} Hz was resampled from {source} Hz{lost}; it is "
            f"kept in {target}"
        )
    return notes


def _is_current(task: Task, folder: Path) -> bool:
    """Whether a folder of audio exists and, if it was resampled here, its source is the same."""
    if not folder.is_dir():
        return False
    stamp = folder / STAMP
    if not stamp.is_file():
        return True
    rate, _, state = stamp.read_text("utf-8").partition(" ")
    return not (task.path / rate).is_dir() or state == _state(task, int(rate))


def _state(task: Task, rate: int) -> str:
    """A fingerprint of the names, sizes and modification times of the task's clips at a rate."""
    found = [
        (path.name, stat.st_size, stat.st_mtime_ns)
        for path in clip_paths(task, rate)
        for stat in [path.stat()]
    ]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _source(task: Task, wanted: int) -> int:
    """The highest rate of the folder, of those that were not resampled here if there is one."""
    parts = [part for part in task.path.iterdir() if is_sample_rate(part.name) and part.is_dir()]
    if not parts:
        raise TaskError(
            f"{task.path} has no audio: a system needs {wanted} Hz; fetch the task again"
        )
    return max((not (part / STAMP).exists(), int(part.name)) for part in parts)[1]


def _resample(task: Task, source: int, rate: int) -> None:
    check_audio(task, source)
    draft = task.path / f".{rate}{PART}"
    shutil.rmtree(draft, ignore_errors=True)  # of an interrupted call
    for split in task.splits:
        (draft / split).mkdir(parents=True)

    def write(path: Path) -> None:
        try:
            samples = load_audio(path, rate)
        except ValueError as error:  # names the file
            raise TaskError(str(error)) from error
        (draft / path.parent.name / path.name).write_bytes(wav(samples, rate))

    state = _state(task, source)
    clips = clip_paths(task, source)
    in_threads(write, clips, desc=f"resampling {task.path.name}", unit="clip")
    (draft / STAMP).write_text(f"{source} {state}", "utf-8")
    target = task.path / str(rate)
    shutil.rmtree(target, ignore_errors=True)  # resampled from other audio
    draft.rename(target)
