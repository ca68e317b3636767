"""Writing a pack: one shard after the other, then the index of all; `corpus` describes the files.

A shard is written to temporary files that are renamed when whole. Its sidecar comes last and
carries the fingerprint of what it was made from: it is the stamp that says that the shard is done.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hear_axlstm.audio.clips import Skipped
from hear_axlstm.audio.sources import CSV
from hear_axlstm.config import MelConfig
from hear_axlstm.data.corpus import (
    FORMAT,
    INDEX_NAME,
    INFO_NAME,
    REPORT_NAME,
    ClipIndex,
    PackError,
    shard_path,
)
from hear_axlstm.data.extract import Features

INDEX_DTYPES = {"offset": "i8", "frames": "i8", "mean": "f4", "std": "f4"}


@dataclass(frozen=True)
class Shard:
    """One unit of work, and where its frames go."""

    folder: Path
    number: int
    fingerprint: str

    @property
    def frames(self) -> Path:
        """The file of frames."""
        return shard_path(self.folder, self.number)

    @property
    def sidecar(self) -> Path:
        """What is in it, and what it was made from."""
        return self.frames.with_suffix(".json")

    def is_done(self) -> bool:
        """Whether it was already made, from the same files, and is all there."""
        try:
            made = json.loads(self.sidecar.read_text())
            return made["fingerprint"] == self.fingerprint and (
                self.frames.stat().st_size == made["bytes"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def write(self, found: Iterable[Features | Skipped]) -> None:
        """Write the frames, then the sidecar.

        If something failed that may work the next time, the sidecar's fingerprint is left empty.
        """
        columns: dict[str, list[Any]] = {name: [] for name in ("id", *INDEX_DTYPES)}
        skipped: list[Skipped] = []
        offset = 0
        partial = self.frames.with_name(self.frames.name + ".partial")
        with open(partial, "wb") as file:
            for item in found:
                if isinstance(item, Skipped):
                    skipped.append(item)
                    continue
                file.write(item.frames.data)
                row = (item.id, offset, len(item.frames), item.mean, item.std)
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(value)
                offset += len(item.frames)
            size = file.tell()
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.frames)
        made = {
            "fingerprint": "" if any(skip.passing for skip in skipped) else self.fingerprint,
            "bytes": size,
            "clips": columns,
            "skipped": [[skip.id, skip.reason] for skip in skipped],
        }
        write_text(self.sidecar, json.dumps(made))


def finish(folder: Path, source: str, mel: MelConfig, shards: Sequence[Shard]) -> None:
    """Join the shards' sidecars, drop stale shards, stamp with pack.json.

    Raises:
        PackError: if there is no clip in any of them.
    """
    index, kinds, fingerprints = _join(folder, shards)
    if not len(index):
        with open(folder / REPORT_NAME, encoding="utf-8", **CSV) as file:
            first = next(csv.DictReader(file), {"id": "tars", "reason": "without audio files"})
        raise PackError(
            f"none of the {kinds.total()} audio files in {source} is usable, "
            f"e.g. {first['id']}: {first['reason']}; all reasons: {folder / REPORT_NAME}"
        )
    keep = {path for shard in shards for path in (shard.frames, shard.sidecar)}
    for path in set(folder.glob("shard-*")) - keep:
        path.unlink()
    info = {
        "format": FORMAT,
        "mel": asdict(mel),
        "fingerprint": digest(fingerprints),
        "clips": len(index),
        "skipped": dict(kinds.most_common()),
        "source": source,
    }
    write_text(folder / INFO_NAME, json.dumps(info, indent=2))


def digest(parts: Iterable[str]) -> str:
    """A fingerprint of text."""
    text = "\n".join((str(FORMAT), *parts))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _join(folder: Path, shards: Iterable[Shard]) -> tuple[ClipIndex, Counter[str], list[str]]:
    """Write index.npz and report.csv; return index, reasons and the shards' fingerprints."""
    columns: dict[str, list[np.ndarray]] = defaultdict(list)
    kinds: Counter[str] = Counter()
    fingerprints = []
    with open(folder / REPORT_NAME, "w", encoding="utf-8", **CSV) as file:
        report = csv.writer(file)
        report.writerow(("id", "reason"))
        for shard in shards:
            made = json.loads(shard.sidecar.read_text())
            fingerprints.append(made["fingerprint"])
            report.writerows(made["skipped"])
            kinds.update(Skipped(*skip).kind for skip in made["skipped"])
            clips = made["clips"]
            for name, dtype in INDEX_DTYPES.items():
                columns[name].append(np.array(clips[name], dtype))
            columns["shard"].append(np.full(len(clips["id"]), shard.number, "i4"))
            ids = [clip_id.encode("utf-8", "surrogateescape") for clip_id in clips["id"]]
            columns["id_bytes"].append(np.frombuffer(b"".join(ids), np.uint8))
            columns["id_end"].append(np.array([len(clip_id) for clip_id in ids], "i8"))
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    joined["id_end"] = joined["id_end"].cumsum()
    index = ClipIndex(**joined)
    np.savez(folder / INDEX_NAME, **vars(index))
    return index, kinds, fingerprints


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
