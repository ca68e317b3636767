"""Files on disk, and in the zips as which a browser saves a folder of Google Drive.

Drive splits a large folder into `NAME-DATE-001.zip`, `NAME-DATE-002.zip`, ..., each a zip of its
own with some of the files.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ARCHIVE = ".zip"
PART = re.compile(r"(.*-)\d{3}\.zip", re.IGNORECASE)


@dataclass(frozen=True)
class Member:
    """A file on disk, or a member of a zip; `name` is empty for a file on disk."""

    path: Path
    name: str = ""

    def copy_to(self, target: Path) -> None:
        """Copy or unpack it; raises zipfile.BadZipFile if the zip is damaged."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if not self.name:
            shutil.copyfile(self.path, target)
            return
        with (
            zipfile.ZipFile(self.path) as archive,
            archive.open(self.name) as packed,
            target.open("wb") as unpacked,
        ):
            shutil.copyfileobj(packed, unpacked)


def files_in(place: Path) -> dict[str, Member]:
    """List the files of a folder, of a zip and its other parts, or a single file, by path."""
    is_dir = place.is_dir()
    paths = [p for p in sorted(place.rglob("*")) if p.is_file()] if is_dir else _parts(place)
    return {
        (path.relative_to(place.parent) / member.name).as_posix(): member
        for path in paths
        for member in _members(path)
    }


def _parts(path: Path) -> list[Path]:
    """A zip and its other parts in the same folder."""
    match = PART.fullmatch(path.name)
    if match is None:
        return [path]
    others = (p for p in path.parent.iterdir() if p.name.startswith(match[1]))
    return sorted(p for p in others if PART.fullmatch(p.name))


def _members(path: Path) -> Iterator[Member]:
    if path.suffix.lower() == ARCHIVE and zipfile.is_zipfile(path):
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            yield from (Member(path, name) for name in names if not name.endswith("/"))
            return
    yield Member(path)
