"""Parallel extraction of log-mel frames from clips."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from multiprocessing import get_context, parent_process
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from hear_axlstm.ahead import groups, map_ahead
from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.audio.decode_ahead import AHEAD, content_bytes
from hear_axlstm.audio.mel import LogMel
from hear_axlstm.audio.skipped import Skipped
from hear_axlstm.audio.usable import Decoded, compute_decoded, decode_usable, sample_count
from hear_axlstm.config import MelConfig
from hear_axlstm.data.corpus import FRAME_DTYPE, PackError

MOST_WORKERS = 61  # on Windows
DEVICE_SAMPLES = 10_000_000  # of waveforms sent to an accelerator at once: 62 clips of 10 s

Job = tuple[int, AudioClip | Skipped]  # the number of a shard, and a clip for it
T = TypeVar("T")


@dataclass(frozen=True)
class Features:
    """The frames of one clip."""

    id: str
    frames: NDArray[np.float16]
    """Raw log-mel, [T, F]."""
    mean: float
    std: float
    """Unbiased standard deviation."""


def extract_all(
    jobs: Iterable[Job], mel: MelConfig, workers: int, device: torch.device | None = None
) -> Generator[tuple[int, Features | Skipped]]:
    """Decode clips and compute their log-mel frames, in order.

    At most `AHEAD` clips per worker are in memory at a time.

    Args:
        jobs: clips, each with the number of its shard, which is returned with its frames.
        mel: the front end.
        workers: number of processes; 1 runs in this process.
        device: device that computes log-mel in batches; by default each worker computes its own.

    Raises:
        PackError: if a worker process dies.
    """
    if device is None:
        yield from _map(partial(_extract, mel=mel), jobs, workers)
    else:
        decoded = _map(partial(_decode, mel=mel), jobs, workers)
        yield from _features_on(device, decoded, mel)


def _map(work: Callable[[Job], T], jobs: Iterable[Job], workers: int) -> Iterator[T]:
    """Ordered `map` in processes, with a bounded number of items in flight."""
    if workers <= 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a worker; more threads slow down such small operations
        try:
            yield from map(work, jobs)
        finally:
            torch.set_num_threads(threads)
        return
    # spawned, since a forked child of a process that has used torch's threads can hang
    if os.name == "nt":
        workers = min(workers, MOST_WORKERS)
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker)
    try:
        yield from map_ahead(work, jobs, pool, AHEAD * workers, input_bytes=content_bytes)
    except BrokenProcessPool as error:
        raise PackError(
            f"one of {workers} worker processes died, perhaps out of memory: "
            "run again with fewer workers; finished shards are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker if its parent is killed, instead of waiting for work forever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _decode(job: Job, mel: MelConfig) -> tuple[int, Decoded | Skipped]:
    number, clip = job
    return number, decode_usable(clip, mel.sample_rate)


def _extract(job: Job, mel: MelConfig) -> tuple[int, Features | Skipped]:
    number, decoded = _decode(job, mel)
    if isinstance(decoded, Skipped):
        return number, decoded
    frames = _log_mel(decoded.waveform[None], mel, torch.device("cpu"))[0]
    return number, _features(decoded.id, frames)


def _features_on(
    device: torch.device, decoded: Iterable[tuple[int, Decoded | Skipped]], mel: MelConfig
) -> Iterator[tuple[int, Features | Skipped]]:
    """Compute log-mel of consecutive waveforms of equal length in batches."""

    def features(clips: Sequence[Decoded]) -> list[Features | Skipped]:
        frames = _log_mel(np.stack([clip.waveform for clip in clips]), mel, device)
        return [_features(clip.id, own) for clip, own in zip(clips, frames, strict=True)]

    for _, alike in groupby(decoded, _length):
        for batch in groups(alike, _length, DEVICE_SAMPLES):
            numbers, items = zip(*batch, strict=True)
            yield from zip(numbers, compute_decoded(items, features), strict=True)


def _length(decoded: tuple[int, Decoded | Skipped]) -> int:
    return sample_count(decoded[1])


_front_ends: dict[tuple[MelConfig, torch.device], LogMel] = {}


@torch.inference_mode()
def _log_mel(waveforms: NDArray[np.float32], mel: MelConfig, device: torch.device) -> NDArray:
    """Raw log-mel as it is stored, [B, T, F]."""
    if (mel, device) not in _front_ends:  # filter banks are made once per process
        _front_ends[mel, device] = LogMel(mel).to(device)
    frames = _front_ends[mel, device](torch.from_numpy(waveforms).to(device))
    return frames.half().cpu().numpy().astype(FRAME_DTYPE, copy=False)


def _features(clip_id: str, frames: NDArray[np.float16]) -> Features | Skipped:
    if not np.isfinite(frames).all():
        return Skipped(clip_id, "too loud: its power is not a finite number; export it again")
    # statistics of the stored, rounded values
    mean, std = frames.mean(dtype=np.float64), frames.std(dtype=np.float64, ddof=1)
    return Features(clip_id, frames, float(mean), float(std))
