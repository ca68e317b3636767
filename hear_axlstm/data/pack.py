"""Pack audio into memory-mapped log-mel shards; `corpus` describes the files.

A shard is the unit of work. So an interrupted pack goes on where it stopped, a finished one is
recognized, and after a change only the shards that it touches are made again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from hear_axlstm.audio.clips import Skipped, Source
from hear_axlstm.audio.sources import open_source
from hear_axlstm.config import MelConfig
from hear_axlstm.data.corpus import INDEX_NAME, INFO_NAME, REPORT_NAME, Corpus, PackError, read_info
from hear_axlstm.data.extract import Features, Job, extract_all
from hear_axlstm.data.shards import Shard, digest, finish

log = logging.getLogger(__name__)

CLIPS_PER_WORKER = 64  # fewer don't pay for starting a process
LOCK_NAME = "pack.lock"


@dataclass(frozen=True)
class PackReport:
    """What a pack holds, and what was left out."""

    folder: Path
    clips: int
    hours: float
    skipped: Mapping[str, int]
    """Number of files that gave no clip, by kind of reason; report.csv in the pack names each."""

    def __str__(self) -> str:
        text = f"{self.folder}: {self.clips:,} clips, {self.hours:,.2f} hours"
        if self.skipped:
            kinds = ", ".join(f"{number:,} {kind}" for kind, number in self.skipped.items())
            text += f"; {sum(self.skipped.values()):,} left out ({kinds}), see "
            text += str(self.folder / REPORT_NAME)
        return text


def pack(
    audio: str | Path,
    out: str | Path,
    mel: MelConfig | None = None,
    workers: int | None = None,
    device: str | None = None,
) -> PackReport:
    """Pack audio into the folder `out`.

    Files that are broken, silent, empty, truncated, too short or longer than an hour (list spans of
    them in a manifest) are left out and listed in report.csv. The result does not depend on the
    number of workers.

    Args:
        audio: a folder, searched for files in any format that libsndfile decodes; a .csv or .tsv
            with the column `path`, optionally `start` and `end` in seconds; or paths or URLs of
            WebDataset tars with braces to expand.
        out: folder to write; one that holds a pack of the same source is brought up to date.
        mel: the front end, by default the paper's.
        workers: processes, by default one a CPU; 1 works in this process.
        device: torch device for the front end; by default CUDA where there is one, else each worker
            computes its own.

    Raises:
        PackError: if `audio` has nothing usable, `out` holds another pack or other files, or there
            are no workers.
    """
    check_workers(workers)
    source, out, mel = open_source(audio), Path(out), mel or MelConfig()
    shards, sizes = _plan(source, out, mel)
    fingerprint = digest(shard.fingerprint for shard in shards)
    if _is_up_to_date(out, source, mel, fingerprint):
        log.info("%s is up to date", out)
        return _report(out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / LOCK_NAME, timeout=0):
            (out / INFO_NAME).unlink(missing_ok=True)
            todo = {shard.number: shard for shard in shards if not shard.is_done()}
            _write(todo, sizes, source, mel, workers, device)
            finish(out, source.name, mel, shards)
    except Timeout as error:
        raise PackError(f"{out} is being written by another process: wait for it") from error
    return _report(out)


def _plan(source: Source, out: Path, mel: MelConfig) -> tuple[list[Shard], list[int | None]]:
    """The shards to be, and how many clips go into each, where that is known."""
    shards, sizes = [], []
    for number, unit in enumerate(tqdm(source.units(), "listing", unit="shard", leave=False)):
        shards.append(Shard(out, number, digest([repr(mel), *unit.inputs()])))
        sizes.append(unit.size)
    return shards, sizes


def _is_up_to_date(out: Path, source: Source, mel: MelConfig, fingerprint: str) -> bool:
    """Whether `out` is the finished pack of these very inputs; refuses to replace another one."""
    info = read_info(out)
    if info is None:
        foreign = [p.name for p in out.iterdir() if not _is_ours(p)] if out.is_dir() else []
        if foreign:
            raise PackError(f"{out} holds other files, e.g. {foreign[0]}: choose a new folder")
        return False
    if info["mel"] != asdict(mel):
        changed = [k for k, v in asdict(mel).items() if info["mel"].get(k) != v]
        raise PackError(
            f"{out} was packed with other mel settings ({', '.join(changed)}): "
            "choose another folder, or delete this pack first"
        )
    if info["fingerprint"] == fingerprint:
        return _opens(out)
    if info["source"] != source.name:
        raise PackError(
            f"{out} is a pack of {info['source']}: choose another folder, or delete it first"
        )
    return False


def _is_ours(path: Path) -> bool:
    name = path.name.removesuffix(".partial")
    return name.startswith("shard-") or name in (INDEX_NAME, REPORT_NAME, INFO_NAME, LOCK_NAME)


def _opens(out: Path) -> bool:
    try:
        Corpus(out)
    except PackError as error:
        log.warning("repairing: %s", error)
        return False
    return True


def check_workers(workers: int | None) -> None:
    """Refuse a number of processes that can't work."""
    if workers is not None and workers < 1:
        raise PackError(f"workers={workers} must be 1 or more, or left out")


def choose_workers(clips: int | None) -> int:
    """One process a CPU, but none for want of work."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    return cpus if clips is None else min(cpus, clips // CLIPS_PER_WORKER)


def choose_device(device: str | None) -> torch.device | None:
    """CUDA where there is one; None leaves the front end to the workers."""
    if device is None and torch.cuda.is_available():
        device = "cuda"
    return None if device is None else torch.device(device)


def _write(
    todo: Mapping[int, Shard],
    sizes: Sequence[int | None],
    source: Source,
    mel: MelConfig,
    workers: int | None,
    device: str | None,
) -> None:
    """Make the shards in `todo`, from one stream of clips: no worker waits at a shard's end."""
    known = [size for number in todo if (size := sizes[number]) is not None]
    total = sum(known) if len(known) == len(todo) else None
    if workers is None:
        workers = choose_workers(total)
    jobs = _jobs(source, todo)
    empty = dict(todo)
    with (
        closing(extract_all(jobs, mel, workers, choose_device(device))) as results,
        tqdm(total=total, unit="clip", desc="packing", dynamic_ncols=True) as progress,
    ):
        for number, group in groupby(results, lambda result: result[0]):
            todo[number].write(_tick(progress, (found for _, found in group)))
            del empty[number]
            if total is None:  # as many clips in the tars to come as in those before
                progress.total = progress.n * len(todo) // (len(todo) - len(empty))
    for shard in empty.values():
        shard.write(())


def _jobs(source: Source, todo: Mapping[int, Shard]) -> Iterator[Job]:
    for number, unit in enumerate(source.units() if todo else ()):
        if number in todo:
            yield from ((number, clip) for clip in unit.clips)


def _tick(progress: tqdm, found: Iterable[Features | Skipped]) -> Iterator[Features | Skipped]:
    for item in found:
        progress.update()
        yield item


def _report(out: Path) -> PackReport:
    corpus = Corpus(out)
    assert corpus.info is not None
    return PackReport(out, len(corpus), corpus.hours, corpus.info["skipped"])
