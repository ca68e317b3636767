"""Files on disk, or in the zips that a browser downloads for a Google Drive folder.

Drive splits a large folder into `NAME-DATE-001.zip`, `NAME-DATE-002.zip`, ..., each a zip of its
own with some of the files.
"""

from __future__ import annotations

import lzma
import re
import shutil
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from hearbench.errors import HearbenchError

ARCHIVE = ".zip"
PART = re.compile(r"(.*-)\d{3}\.zip", re.IGNORECASE)
DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, ValueError, RuntimeError),
)
"""Errors raised on reading a damaged or password-protected zip."""


class ZipError(HearbenchError, ValueError):
    """Raised for a zip that can't be read; the message names it and the remedy."""


@dataclass(frozen=True)
class Member:
    """A file on disk, or a member of a zip; `name` is empty for a file on disk."""

    path: Path
    name: str = ""

    def copy_to(self, target: Path) -> None:
        """Copy or unpack it.

        Raises:
            ZipError: if the zip is damaged.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        if not self.name:
            shutil.copyfile(self.path, target)
            return
        try:
            with (
                zipfile.ZipFile(self.path) as archive,
                archive.open(self.name) as packed,
                target.open("wb") as unpacked,
            ):
                shutil.copyfileobj(packed, unpacked)
        except DAMAGED as error:
            raise ZipError(f"{self.path} can't be unpacked ({error}): download it again") from None


def files_in(place: Path) -> dict[str, Member]:
    """List the files of a folder, of a zip and its other parts, or a single file, by path.

    Raises:
        ZipError: if `place` is a zip that can't be read; in a folder it is listed as a file.
    """
    if place.suffix.lower() == ARCHIVE and place.is_file() and not _names(place):
        raise ZipError(f"{place} is damaged or cut off: download it again")
    is_dir = place.is_dir()
    paths = [p for p in sorted(place.rglob("*")) if p.is_file()] if is_dir else _parts(place)
    return {
        (path.relative_to(place.parent) / name).as_posix(): Member(path, name)
        for path in paths
        for name in _names(path) or [""]
    }


def _parts(path: Path) -> list[Path]:
    """A zip and its other parts in the same folder."""
    match = PART.fullmatch(path.name)
    if match is None:
        return [path]
    others = (p for p in path.parent.iterdir() if p.name.startswith(match[1]))
    return sorted(p for p in others if PART.fullmatch(p.name))


def _names(path: Path) -> list[str]:
    """Names of the files in a zip; none for another file, or if it can't be read."""
    if path.suffix.lower() != ARCHIVE:
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            return [name for name in archive.namelist() if not name.endswith("/")]
    except DAMAGED:
        return []
