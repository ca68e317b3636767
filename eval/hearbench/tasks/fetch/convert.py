"""Conversion of an archive to a task folder: resamples clips in parallel and checks everything."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from hearbench.audio import AudioError, load_audio, wav
from hearbench.download import FetchError
from hearbench.progress import Progress
from hearbench.tasks.check import check_task
from hearbench.tasks.fetch.unpack import Member, members
from hearbench.tasks.official import OfficialTask

SAMPLE_RATE = 48_000  # Hz, of the archives
AHEAD = 16  # clips in flight for each worker
HEADROOM = 3  # maximum size of an archive's content relative to 16-bit mono clips
LONGEST = 600.0  # seconds of a clip; a small compressed file may contain hours
PART = ".part"
DESCRIPTIONS = 64 << 20  # bytes that JSON and CSV may take


def convert(
    archive: Path, task: OfficialTask, folder: Path, rates: Sequence[int], workers: int
) -> None:
    """Fill a folder with the whole task; the work of an interrupted call is kept.

    Clips are resampled by soxr, as by hearpreprocess, and written as 16-bit WAV.

    Args:
        archive: the downloaded archive.
        task: the task.
        folder: output folder; it is removed on failure, but not after an interruption.
        rates: sample rates to provide, in Hz.
        workers: number of threads.

    Raises:
        FetchError: if the archive is damaged, malicious or does not contain the whole task.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part in folder.rglob(f"*{PART}"):
        part.unlink()
    for other in folder.iterdir():
        if other.is_dir() and other.name not in map(str, rates):
            shutil.rmtree(other)
    try:
        _convert_members(archive, task, folder, rates, workers)
        if problems := check_task(folder).problems:
            more = f" and {len(problems) - 1:,} more problems" if len(problems) > 1 else ""
            raise FetchError(
                f"{archive} does not contain the whole task ({problems[0]}{more}): "
                "delete it and run the command again"
            )
    except FetchError:
        shutil.rmtree(folder)
        raise


def archive_bytes(task: OfficialTask) -> int:
    """Upper bound on an archive's size in bytes, since 16-bit audio is compressed."""
    return int(task.hours * 3600 * SAMPLE_RATE * 2)


def folder_bytes(task: OfficialTask, rates: Sequence[int]) -> int:
    """Size of the task folder in bytes."""
    return int(task.hours * 3600 * sum(rates) * 2)


def _convert_members(
    archive: Path, task: OfficialTask, folder: Path, rates: Sequence[int], workers: int
) -> None:
    largest = HEADROOM * archive_bytes(task) + DESCRIPTIONS
    running: deque[Future[None]] = deque()
    pool = ThreadPoolExecutor(workers)  # decoding and resampling release the GIL
    try:
        with Progress(desc=f"resampling {task.folder}", total=task.clips, unit="clip") as progress:
            for member in members(archive, task.folder, SAMPLE_RATE, largest):
                running.append(pool.submit(_write, member, folder, rates))
                progress.update(len(member.path.parts) == 3)
                if len(running) >= AHEAD * workers:
                    running.popleft().result()
            while running:
                running.popleft().result()
    except AudioError as error:
        raise FetchError(
            f"{archive} contains an unusable clip ({error}): delete it and run the command again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _write(member: Member, folder: Path, rates: Sequence[int]) -> None:
    if len(member.path.parts) == 1:
        _replace(folder / member.path, member.content)
        return
    _, split, clip = member.path.parts
    for rate in rates:
        target = folder / str(rate) / split / clip
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if rate == SAMPLE_RATE:
            _replace(target, member.content)
            continue
        try:
            samples = load_audio(member.content, rate, longest=LONGEST)
        except AudioError as error:
            raise AudioError(f"{member.path}: {str(error).removeprefix('audio: ')}") from error
        _replace(target, wav(samples, rate))


def _replace(target: Path, content: bytes) -> None:
    """Write a file atomically."""
    part = target.with_name(target.name + PART)
    part.write_bytes(content)
    part.replace(target)
