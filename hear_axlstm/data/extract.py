"""One audio file to raw log-mel frames, or to the reason why it gives none; many in parallel."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hear_axlstm.audio import AudioError, load_audio
from hear_axlstm.config import MelConfig
from hear_axlstm.data.corpus import FRAME_DTYPE, PackError
from hear_axlstm.mel import LogMel

SILENCE = 1e-4  # peak in full scale, -80 dB: three steps of 16-bit audio
FILES_PER_WORKER = 64  # fewer don't pay for starting a process


@dataclass(frozen=True)
class Features:
    """The frames of one clip."""

    id: str
    frames: NDArray[np.float16]
    """Raw log-mel, [T, F]."""
    mean: float
    std: float
    """Unbiased, as everywhere."""


@dataclass(frozen=True)
class Skipped:
    """A file that gives no clip."""

    id: str
    reason: str


Extract = Callable[[Sequence[Path]], Iterable[Features | Skipped]]


def extract(path: Path, source: Path, front_end: LogMel) -> Features | Skipped:
    """Decode one file and compute its log-mel frames.

    Args:
        path: the audio file.
        source: folder above it that the clip id is relative to.
        front_end: waveform to log-mel.
    """
    mel = front_end.config
    clip_id = path.relative_to(source).as_posix()
    try:
        waveform = load_audio(path, mel.sample_rate)
    except AudioError as error:
        return Skipped(clip_id, str(error).removeprefix(f"{path}: "))
    if waveform.size < mel.n_fft:
        reason = f"too short: {waveform.size} samples, one window needs {mel.n_fft}"
        return Skipped(clip_id, reason)
    if np.abs(waveform - waveform.mean()).max() < SILENCE:
        return Skipped(clip_id, "silent: its peak is below -80 dB of full scale")
    with torch.inference_mode():
        frames = front_end(torch.from_numpy(waveform)[None])[0].numpy().astype(FRAME_DTYPE)
    # statistics of what is stored, not of what was rounded away
    mean, std = frames.mean(dtype=np.float64), frames.std(dtype=np.float64, ddof=1)
    return Features(clip_id, frames, float(mean), float(std))


@contextmanager
def extract_all(
    mel: MelConfig, source: Path, files: int, workers: int | None = None
) -> Iterator[Extract]:
    """Give a function that extracts a list of files in order, by processes where that pays.

    Args:
        mel: the front end.
        source: folder that clip ids are relative to.
        files: how many files there are in all.
        workers: processes, by default one a CPU, but none idle.

    Raises:
        PackError: if a worker process dies.
    """
    if workers is None:
        workers = min(_cpus(), files // FILES_PER_WORKER)
    work = partial(_extract_in_worker, source=source, mel=mel)
    if workers <= 1:
        yield partial(map, work)
        return
    # spawned, because a forked child of a process that has used torch's threads can hang
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker)
    try:
        yield partial(pool.map, work, chunksize=4)
    except BrokenProcessPool as error:
        raise PackError(
            f"one of {workers} worker processes died, perhaps out of memory: "
            "run again with fewer workers, finished shards are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle


_front_ends: dict[MelConfig, LogMel] = {}


def _extract_in_worker(path: Path, source: Path, mel: MelConfig) -> Features | Skipped:
    if mel not in _front_ends:  # filter banks are made once a process
        _front_ends[mel] = LogMel(mel)
    return extract(path, source, _front_ends[mel])
