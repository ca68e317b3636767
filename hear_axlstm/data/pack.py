"""Pack a folder of audio into memory-mapped log-mel shards; `corpus` describes the files.

A shard is the unit of work: it is written to a temporary file and renamed when whole, and carries
the fingerprint of its inputs. So an interrupted pack goes on where it stopped, a finished one is
recognized, and after a change only the shards that it touches are made again.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hear_axlstm.audio import AUDIO_SUFFIXES, OTHER_AUDIO_SUFFIXES
from hear_axlstm.config import MelConfig
from hear_axlstm.data.corpus import (
    FORMAT,
    INFO_NAME,
    ClipIndex,
    Corpus,
    PackError,
    read_info,
    shard_path,
)
from hear_axlstm.data.extract import Features, Skipped, extract_all

log = logging.getLogger(__name__)

FILES_PER_SHARD = 256  # 10 s clips: 41 MB
CSV: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}


@dataclass(frozen=True)
class PackReport:
    """What a pack holds, and what was left out."""

    folder: Path
    clips: int
    hours: float
    skipped: tuple[Skipped, ...]
    """Files that gave no clip; report.csv in the pack lists the same."""

    def __str__(self) -> str:
        text = f"{self.folder}: {self.clips} clips, {self.hours:.2f} hours"
        if self.skipped:
            text += f"; {len(self.skipped)} files left out, see {self.folder / 'report.csv'}"
        return text


@dataclass(frozen=True)
class _Shard:
    """One unit of work: some files, and where their frames go."""

    number: int
    files: tuple[Path, ...]
    fingerprint: str
    frames: Path
    sidecar: Path


def pack(
    source: str | Path,
    out: str | Path,
    mel: MelConfig | None = None,
    workers: int | None = None,
) -> PackReport:
    """Pack every audio file below `source`, one clip a file, into the folder `out`.

    Broken, silent, empty or too short files are left out and listed in report.csv. The result does
    not depend on the number of workers.

    Args:
        source: folder of audio in any format that libsndfile decodes.
        out: folder to write; one that holds a pack of the same source is brought up to date.
        mel: the front end, by default the paper's.
        workers: processes, by default one a CPU; 1 works in this process.

    Raises:
        PackError: if `source` has no usable audio, or `out` holds another pack or other files.
    """
    source, out, mel = Path(source).resolve(), Path(out), mel or MelConfig()
    files = _find_audio(source)
    shards = _plan(source, files, out, mel)
    fingerprint = _digest(shard.fingerprint for shard in shards)
    if _is_done(out, source, mel, fingerprint):
        log.info("%s is up to date", out)
        return _report(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / INFO_NAME).unlink(missing_ok=True)
    todo = [shard for shard in shards if not _is_whole(shard, mel)]
    total = sum(len(shard.files) for shard in todo)
    with (
        extract_all(mel, source, total, workers) as extract,
        tqdm(total=total, unit="file", desc="packing", dynamic_ncols=True) as progress,
    ):
        for shard in todo:
            _write_shard(shard, (_tick(progress, found) for found in extract(shard.files)))
    _finish(out, source, mel, shards, fingerprint)
    return _report(out)


def _tick(progress: tqdm, found: Features | Skipped) -> Features | Skipped:
    progress.update()
    return found


def _find_audio(source: Path) -> list[Path]:
    if not source.is_dir():
        raise PackError(f"{source} is no folder: give the folder that holds the audio files")
    suffixes = AUDIO_SUFFIXES | OTHER_AUDIO_SUFFIXES
    files = [
        Path(folder, name)
        for folder, _, names in os.walk(source)
        for name in names
        if os.path.splitext(name)[1].lower() in suffixes and not name.startswith(".")
    ]
    if not files:
        raise PackError(f"{source} holds no audio files ({', '.join(sorted(AUDIO_SUFFIXES))})")
    return sorted(files, key=lambda path: path.relative_to(source).as_posix())


def _plan(source: Path, files: Sequence[Path], out: Path, mel: MelConfig) -> list[_Shard]:
    shards = []
    for number, first in enumerate(range(0, len(files), FILES_PER_SHARD)):
        members = tuple(files[first : first + FILES_PER_SHARD])
        stats = [(path.relative_to(source).as_posix(), path.stat()) for path in members]
        inputs = (f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats)
        frames = shard_path(out, number)
        fingerprint = _digest([str(FORMAT), repr(mel), *inputs])
        shards.append(_Shard(number, members, fingerprint, frames, frames.with_suffix(".json")))
    return shards


def _digest(parts: Sequence[str] | Iterator[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _is_done(out: Path, source: Path, mel: MelConfig, fingerprint: str) -> bool:
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
    if info["source"] != str(source):
        raise PackError(
            f"{out} is a pack of {info['source']}: choose another folder, or delete it first"
        )
    return False


def _is_ours(path: Path) -> bool:
    name = path.name.removesuffix(".partial")
    return name.startswith("shard-") or name in ("index.npz", "report.csv", "pack.json")


def _opens(out: Path) -> bool:
    try:
        Corpus(out)
    except PackError as error:
        log.warning("repairing: %s", error)
        return False
    return True


def _is_whole(shard: _Shard, mel: MelConfig) -> bool:
    """Whether the shard was already made, from the same files, and is all there."""
    try:
        made = json.loads(shard.sidecar.read_text())
        return made["fingerprint"] == shard.fingerprint and (
            shard.frames.stat().st_size == made["bytes"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_shard(shard: _Shard, found: Iterator[Features | Skipped]) -> None:
    """Write the frames, then the sidecar, each to a temporary file that is renamed when whole."""
    clips: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    offset = 0
    partial = shard.frames.with_suffix(".f16.partial")
    with open(partial, "wb") as file:
        for item in found:
            if isinstance(item, Skipped):
                skipped.append(asdict(item))
                continue
            file.write(item.frames.tobytes())
            place = {"shard": shard.number, "offset": offset, "frames": len(item.frames)}
            clips.append({"id": item.id, **place, "mean": item.mean, "std": item.std})
            offset += len(item.frames)
    size = partial.stat().st_size
    os.replace(partial, shard.frames)
    made = {"fingerprint": shard.fingerprint, "bytes": size, "clips": clips, "skipped": skipped}
    _write_text(shard.sidecar, json.dumps(made))


def _finish(
    out: Path, source: Path, mel: MelConfig, shards: Sequence[_Shard], fingerprint: str
) -> None:
    """Join the sidecars into index.npz and report.csv, drop stale shards, stamp with pack.json."""
    made = [json.loads(shard.sidecar.read_text()) for shard in shards]
    clips = [clip for part in made for clip in part["clips"]]
    skipped = [Skipped(**skip) for part in made for skip in part["skipped"]]
    with open(out / "report.csv", "w", **CSV) as file:
        rows = csv.writer(file)
        rows.writerow([f.name for f in fields(Skipped)])
        rows.writerows(astuple(skip) for skip in skipped)
    if not clips:
        raise PackError(
            f"none of the {len(skipped)} audio files in {source} is usable, "
            f"e.g. {skipped[0].id}: {skipped[0].reason}; all reasons: {out / 'report.csv'}"
        )
    np.savez(out / "index.npz", **vars(ClipIndex.from_rows(clips)))
    keep = {path for shard in shards for path in (shard.frames, shard.sidecar)}
    for path in set(out.glob("shard-*")) - keep:
        path.unlink()
    info = {"format": FORMAT, "mel": asdict(mel), "fingerprint": fingerprint}
    totals = {"clips": len(clips), "skipped": len(skipped), "source": str(source)}
    _write_text(out / INFO_NAME, json.dumps(info | totals, indent=2))


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def _report(out: Path) -> PackReport:
    corpus = Corpus(out)
    with open(out / "report.csv", **CSV) as file:
        skipped = tuple(Skipped(**row) for row in csv.DictReader(file))
    return PackReport(out, len(corpus), corpus.hours, skipped)
