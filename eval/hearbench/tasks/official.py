"""The ten HEAR tasks of the AxLSTM paper, from official.csv.

Folder names, versions, durations and metrics are those of hearpreprocess 2021.1.1, numbers of clips
those of hearbenchmark.com/hear-tasks.html. The archives are on Zenodo, as 48 kHz audio: in record
5887964, to which that page links, and 6332517, a later version of it. Licenses are those of the
original datasets; `LICENSE.txt` in the record is authoritative.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Mirror:
    """A server that has the archives."""

    files: str
    """URL of the folder of archives: `<files>/<archive>`."""
    listing: str = ""
    """URL of Zenodo's JSON with names, sizes and MD5 sums; empty if there is none."""


MIRRORS = tuple(
    Mirror(f"https://zenodo.org/records/{n}/files", f"https://zenodo.org/api/records/{n}/files")
    for n in (6332517, 5887964)
)
LICENSES = f"{MIRRORS[0].files}/LICENSE.txt"


@dataclass(frozen=True)
class OfficialTask:
    """One of the ten tasks, as it was published."""

    folder: str
    """Name of its folder: name, version and mode."""
    short: str
    """The column of the paper's Table 2."""
    area: str
    """Its group of columns in Table 2."""
    topic: str
    """The thing to classify."""
    classes: int
    clips: int
    seconds: float | None
    """Duration of every clip; None if it differs."""
    hours: float
    """Total duration of all clips."""
    source: str
    """Page of the original dataset."""
    license: str
    """License of the original dataset; empty where unknown."""
    metric: str
    """heareval's name of the primary metric."""
    folds: int
    """Folds of the cross-validation; 1 for a train/valid/test task."""

    @property
    def archive(self) -> str:
        """File name of the 48 kHz archive."""
        return f"hear2021-{self.folder}-48000.tar.gz"


def _read(row: dict[str, Any]) -> OfficialTask:
    counts = {name: int(row[name]) for name in ("classes", "clips", "folds")}
    seconds = float(row["seconds"]) if row["seconds"] else None
    return OfficialTask(**{**row, **counts, "seconds": seconds, "hours": float(row["hours"])})


with Path(__file__).with_suffix(".csv").open(newline="", encoding="utf-8") as _file:
    _TASKS = tuple(map(_read, csv.DictReader(_file)))
OFFICIAL: dict[str, OfficialTask] = {task.folder: task for task in _TASKS}
"""Folder -> task, in the order of the paper's Table 2."""
