"""Inputs that were left out: why, how many, and the list of them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hear_axlstm.audio.tables import OPEN_CSV
from hear_axlstm.files import replacing
from hear_axlstm.wording import duration, plural

REPORT_NAME = "report.csv"
HEADER = ("id", "reason")
LOUD_SHARE = 0.1  # warn above this share of clips left out


@dataclass(frozen=True)
class Skipped:
    """An input that was skipped, with the reason."""

    id: str
    reason: str
    transient: bool = False
    """Whether the same input may work on a retry, for example after a broken connection."""

    @property
    def kind(self) -> str:
        """The reason without details, for counting."""
        return re.split("[:,(]|after [0-9]", self.reason)[0].strip()


@dataclass(frozen=True)
class Report:
    """Summary of the clips that were embedded or packed, and of those that were left out."""

    output: Path
    details: Path
    """The CSV of all clips that were left out."""
    clips: int
    hours: float
    skipped: Mapping[str, int]
    """Number of clips that were left out, by kind of reason."""

    def __str__(self) -> str:
        text = f"{self.output}: {plural(self.clips, 'clip')}, {duration(3600 * self.hours)}"
        if missing := summary(self.clips, self.skipped, f"see {self.details}"):
            text += f"; {missing}. Fix them and run the same command again to include them"
        return text


def write_report(path: Path, skipped: Iterable[Skipped]) -> None:
    """Write a CSV of the inputs that were left out, with reasons."""
    with replacing(path) as partial, open(partial, "w", **OPEN_CSV) as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows((skip.id, skip.reason) for skip in skipped)


def is_report(path: Path) -> bool:
    """Whether a file is a report of inputs that were left out, and not another table."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            return file.readline().strip() == ",".join(HEADER)
    except OSError:
        return False


def summary(clips: int, skipped: Mapping[str, int], details: str) -> str:
    """Summary of what was left out, for a command's last line; empty if nothing was.

    Args:
        clips: number of clips that were not left out.
        skipped: number of clips by the kind of reason.
        details: where every one of them is listed.
    """
    number = sum(skipped.values())
    if not number:
        return ""
    total = clips + number
    kinds = ", ".join(f"{kind}: {count:,}" for kind, count in skipped.items())
    text = f"{number:,} of {total:,} left out ({kinds}), {details}"
    return f"WARNING: {number / total:.0%}, {text}" if number > LOUD_SHARE * total else text
