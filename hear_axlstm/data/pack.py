"""Pack audio into memory-mapped log-mel shards; `corpus` describes the files."""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from hear_axlstm.audio.clips import AudioClip, Source
from hear_axlstm.audio.skipped import REPORT_NAME, Report, Skipped, is_report
from hear_axlstm.audio.sources import open_source
from hear_axlstm.config import MelConfig
from hear_axlstm.data.corpus import (
    FIELD,
    FORMAT,
    INDEX_NAME,
    INFO_NAME,
    LOCK_NAME,
    OPEN_SHARDS,
    ClipIndex,
    Corpus,
    PackError,
    read_info,
)
from hear_axlstm.data.extract import Features, extract_all
from hear_axlstm.data.shards import (
    Plan,
    Record,
    Shard,
    by_shard,
    is_shard_file,
    jobs,
    plan,
    summarize,
)
from hear_axlstm.files import naming_full_disk, replaced_name, sole_writer, write_text
from hear_axlstm.progress import Progress
from hear_axlstm.wording import plural

log = logging.getLogger(__name__)

CLIPS_PER_SHARD = 256  # 10 s clips: 41 MB of log-mel; more where there would be too many shards
CLIPS_PER_WORKER = 64  # with fewer, starting a process is not worth it


def pack(
    audio: str | Path | Sequence[str | Path],
    out: str | Path,
    mel: MelConfig | None = None,
    workers: int | None = None,
    path_column: str | None = None,
    update: bool = True,
) -> Report:
    """Pack audio into the folder `out`.

    Files that are broken, silent, empty, truncated, too short or longer than an hour (split these
    with start/end columns in a CSV) are left out and listed in report.csv. The result does not
    depend on the number of workers. An interrupted pack resumes, and after a change only the
    affected shards are rebuilt.

    Args:
        audio: files, folders, patterns, CSV or TSV files, or tars, see `open_source`.
        out: output folder; an existing pack of the same source is updated.
        mel: the front end, by default the paper's.
        workers: number of processes, by default one per CPU; 1 runs in this process.
        path_column: column of paths in CSV files; by default a usual name such as path or filename.
        update: whether to update a finished pack after a change of its source; False keeps it for
            the runs that were trained on it.

    Raises:
        SourceError, TableError: if there is no audio.
        PackError: if none of it is usable, `out` holds another pack or other files, or there are no
            workers.
    """
    check_workers(workers)
    source, out, mel = open_source(audio, path_column), Path(out), mel or MelConfig()
    planned = plan(source, out, (FIELD,), [repr(mel)], CLIPS_PER_SHARD, OPEN_SHARDS)
    if _is_up_to_date(out, source, mel, planned.fingerprint):
        log.info("%s is up to date", out)
        return _report(out)
    info = read_info(out)
    if not update and info is not None and info["fingerprint"] != planned.fingerprint:
        log.warning("using %s as it is, although %s has changed since", out, source.name)
        return _report(out)
    if info is not None and not any(map(_is_readable, source.clips())):
        raise PackError(
            f"no file of {source.name} can be read: check that its disk is mounted; {out} stays as "
            "it is"
        )
    with naming_full_disk(out):
        out.mkdir(parents=True, exist_ok=True)
    with sole_writer(out, LOCK_NAME):
        (out / INFO_NAME).unlink(missing_ok=True)
        _write(planned, mel, workers)
        finish(out, source.name, mel, planned.shards)
    return _report(out)


def _is_up_to_date(out: Path, source: Source, mel: MelConfig, fingerprint: str) -> bool:
    """Whether `out` is the finished pack of exactly these inputs; raises if it is another one."""
    info = read_info(out)
    if info is None:
        foreign = [p.name for p in out.iterdir() if not _is_ours(p)] if out.is_dir() else []
        if foreign:
            raise PackError(f"{out} contains other files, e.g. {foreign[0]}: choose a new folder")
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
            f"{out} is a pack of {info['source']}: choose another folder, or delete {out} first"
        )
    return False


def _is_readable(clip: AudioClip | Skipped) -> bool:
    if isinstance(clip, Skipped):
        return False
    return isinstance(clip.source, bytes) or os.access(clip.source, os.R_OK)


def _is_ours(path: Path) -> bool:
    if path.name == REPORT_NAME:
        return is_report(path)
    name = replaced_name(path.name)
    return name in (INDEX_NAME, INFO_NAME, LOCK_NAME) or is_shard_file(name, (FIELD,))


def _opens(out: Path) -> bool:
    try:
        Corpus(out)
    except PackError as error:
        log.warning("repairing: %s", error)
        return False
    return True


def check_workers(workers: int | None) -> None:
    """Raise for an invalid number of processes."""
    if workers is not None and workers < 1:
        raise PackError(f"workers={workers} must be 1 or more, or left out")


def choose_workers(clips: int | None) -> int:
    """One process per CPU, but no more than are worth it for the number of clips."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    return cpus if clips is None else min(cpus, clips // CLIPS_PER_WORKER)


def front_end_device() -> torch.device | None:
    """CUDA if available; None leaves the front end to the workers."""
    return torch.device("cuda") if torch.cuda.is_available() else None


def _write(planned: Plan, mel: MelConfig, workers: int | None) -> None:
    """Write the missing shards."""
    todo, total = planned.missing(planned.shards)
    if workers is None:
        workers = choose_workers(total)
    with (
        closing(extract_all(jobs(planned, todo), mel, workers, front_end_device())) as results,
        Progress(total=total, unit="clip", desc="packing") as bar,
    ):
        for done, (shard, found) in enumerate(by_shard(todo, results), 1):
            shard.write(_records(found, bar))
            if total is None:  # assumes that the remaining tars have as many clips
                bar.total = bar.n * len(todo) // done


def _records(found: Iterable[Features | Skipped], bar: Progress) -> Iterator[Record | Skipped]:
    for item in found:
        bar.update()
        yield item if isinstance(item, Skipped) else record(item)


def record(item: Features) -> Record:
    """Convert a clip's features to the record that a pack stores."""
    return Record(item.id, {FIELD: item.frames}, {"mean": item.mean, "std": item.std})


def finish(folder: Path, source: str, mel: MelConfig, shards: Sequence[Shard]) -> None:
    """Join the shards' sidecars, delete stale shards and write pack.json.

    Raises:
        PackError: if none of them has a clip.
    """
    found = summarize(shards, folder / REPORT_NAME)
    if not found.clips:
        first = found.first or Skipped("tars", "without audio files")
        raise PackError(
            f"no usable audio in {source}, {plural(found.kinds.total(), 'file')} left out, "
            f"e.g. {first.id}: {first.reason}; all reasons: {folder / REPORT_NAME}"
        )
    with naming_full_disk(folder / INDEX_NAME):
        np.savez(folder / INDEX_NAME, **vars(_index(shards)))
    keep = {path for shard in shards for path in shard.files}
    for path in folder.iterdir():
        if is_shard_file(replaced_name(path.name), (FIELD,)) and path not in keep:
            path.unlink()
    info = {
        "format": FORMAT,
        "mel": asdict(mel),
        "fingerprint": found.fingerprint,
        "clips": found.clips,
        "skipped": dict(found.kinds.most_common()),
        "source": source,
    }
    write_text(folder / INFO_NAME, json.dumps(info, indent=2))


def _index(shards: Sequence[Shard]) -> ClipIndex:
    """Build the clip index from the shards' sidecars."""
    columns: dict[str, list[np.ndarray]] = defaultdict(list)
    for shard in shards:
        clips = shard.read()["clips"]
        frames = np.array(clips[f"{FIELD} rows"], "i8")
        columns["frames"].append(frames)
        columns["offset"].append(frames.cumsum() - frames)
        columns["mean"].append(np.array(clips.get("mean", ()), "f4"))
        columns["std"].append(np.array(clips.get("std", ()), "f4"))
        columns["shard"].append(np.full(len(frames), shard.number, "i4"))
        ids = [clip_id.encode("utf-8", "surrogateescape") for clip_id in clips["id"]]
        columns["id_bytes"].append(np.frombuffer(b"".join(ids), np.uint8))
        columns["id_end"].append(np.array([len(clip_id) for clip_id in ids], "i8"))
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    joined["id_end"] = joined["id_end"].cumsum()
    return ClipIndex(**joined)


def _report(out: Path) -> Report:
    corpus = Corpus(out)
    assert corpus.info is not None
    return Report(out, out / REPORT_NAME, len(corpus), corpus.hours, corpus.info["skipped"])
