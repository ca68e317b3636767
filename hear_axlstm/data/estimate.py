"""Estimate of a pack's size and time from a sample of its clips."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hear_axlstm.audio.skipped import Skipped
from hear_axlstm.audio.sources import open_source
from hear_axlstm.config import MelConfig
from hear_axlstm.data.corpus import PackError
from hear_axlstm.data.extract import extract_all
from hear_axlstm.data.pack import check_workers, choose_workers, front_end_device
from hear_axlstm.progress import Progress
from hear_axlstm.wording import duration, plural

SAMPLE_PER_WORKER = 64


@dataclass(frozen=True)
class PackEstimate:
    """Estimate from `sampled` clips; hours, bytes and seconds are for all clips."""

    sampled: int
    clips: int
    """Number of clips, including those that will be left out."""
    usable: float
    """Usable share of the sample."""
    hours: float
    bytes: int
    """Size of the finished pack."""
    free: int
    """Free disk space in bytes."""
    seconds: float
    """Duration of packing with `workers`."""
    workers: int

    def __str__(self) -> str:
        text = (
            f"from {self.sampled} of {plural(self.clips, 'clip')}, {self.usable:.0%} usable: "
            f"about {duration(3600 * self.hours)} of audio, {self.bytes / 1e9:,.2f} GB on disk, "
            f"{duration(self.seconds)} with {plural(self.workers, 'worker')}"
        )
        if self.bytes > self.free:
            text += f"; the disk has only {self.free / 1e9:,.2f} GB free"
        return text


def estimate_pack(
    audio: str | Path | Sequence[str | Path],
    out: str | Path,
    workers: int | None = None,
    path_column: str | None = None,
) -> PackEstimate:
    """Estimate what `pack` would do with these arguments, without writing anything.

    Only the first of several tars is read; the others are assumed to be similar.

    Raises:
        SourceError, TableError: if there is no audio.
        PackError: if none of it is usable, or there are no workers.
    """
    check_workers(workers)
    source, mel = open_source(audio, path_column), MelConfig()
    clips, total = source.sample(SAMPLE_PER_WORKER * (workers or choose_workers(None)))
    workers = max(1, choose_workers(total) if workers is None else workers)
    found, ends = [], [time.monotonic()]
    results = extract_all(((0, clip) for clip in clips), mel, workers, front_end_device())
    for _, item in Progress(results, "measuring", total=len(clips), unit="clip", leave=False):
        found.append(item if isinstance(item, Skipped) else (len(item.frames), item.frames.nbytes))
        ends.append(time.monotonic())
    features = [item for item in found if not isinstance(item, Skipped)]
    if not features:
        raise PackError(f"no usable clip in a sample of {len(clips)} of {source.name}")
    scale = total / len(clips)
    hops = sum(frames - 1 for frames, _ in features)
    # from the first result on: starting the workers takes seconds, but only once
    rest = max(1, len(found) - 1)
    return PackEstimate(
        sampled=len(clips),
        clips=total,
        usable=len(features) / len(clips),
        hours=scale * hops * mel.hop_length / mel.sample_rate / 3600,
        bytes=round(scale * sum(size for _, size in features)),
        free=shutil.disk_usage(_existing(Path(out))).free,
        seconds=(ends[-1] - ends[min(1, len(found) - 1)]) / rest * total,
        workers=workers,
    )


def _existing(path: Path) -> Path:
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return path
