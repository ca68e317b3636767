"""Resampling of a task's audio to a rate that is missing in its folder.

A task folder contains `<rate>/<split>/<clip>`. If a system needs another rate, the clips at the
highest available rate are resampled by soxr and stored next to them, as 16-bit WAV like the
official ones. A file beside them, `.resampled`, records the source and two digests of it: one of
sizes and times, and, since copying changes times, one of content. If both have changed, the clips
are resampled again.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from hearbench.audio import load_audio, wav
from hearbench.digests import digest_of
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
        TaskError: if there is no audio to start from, it is incomplete or can't be decoded, or the
            task's folder can't be written.
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
            lacks = "has outdated audio" if target.is_dir() else "has no audio"
            raise TaskError(
                f"{task.path.name} {lacks} at {rate} Hz, and it can't be written to {target} "
                f"({error}): free some space, or copy the task to a disk that can be written"
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
    recorded = stamp.read_text("utf-8").split()
    if len(recorded) != 3 or not is_sample_rate(recorded[0]):  # cut off, or by an older version
        return _rates(task) == [folder]
    source, state, content = recorded
    if not (task.path / source).is_dir():
        return True
    check_audio(task, int(source))
    if (found := _state(task, int(source))) == state:
        return True
    if _content(task, int(source)) != content:
        return False
    with suppress(OSError):  # on a read-only disk, the content is read each time
        stamp.write_text(f"{source} {found} {content}", "utf-8")
    return True


def _state(task: Task, rate: int) -> str:
    """A digest of the names, sizes and modification times of the task's clips at a rate."""
    found = [
        (path.parent.name, path.name, stat.st_size, stat.st_mtime_ns)
        for path in clip_paths(task, rate)
        for stat in [path.stat()]
    ]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _content(task: Task, rate: int) -> str:
    """A digest of the names and contents of the task's clips at a rate."""
    clips = clip_paths(task, rate)
    bar = {"desc": f"reading {task.path.name}", "unit": "clip", "leave": False}
    digests = in_threads(digest_of, clips, **bar)
    found = [(path.parent.name, path.name, d) for path, d in zip(clips, digests, strict=True)]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _rates(task: Task) -> list[Path]:
    """The folders of the task's audio."""
    return [part for part in task.path.iterdir() if is_sample_rate(part.name) and part.is_dir()]


def _source(task: Task, wanted: int) -> int:
    """The highest rate of the folder, of those that were not resampled here if there is one."""
    parts = [part for part in _rates(task) if part.name != str(wanted)]
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

    stamp = f"{source} {_state(task, source)} {_content(task, source)}"
    clips = clip_paths(task, source)
    in_threads(write, clips, desc=f"resampling {task.path.name}", unit="clip")
    (draft / STAMP).write_text(stamp, "utf-8")
    target = task.path / str(rate)
    shutil.rmtree(target, ignore_errors=True)  # resampled from other audio
    draft.rename(target)
