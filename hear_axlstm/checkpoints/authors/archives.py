"""Files on disk, or in the zips that a browser downloads for a Google Drive folder.

Drive splits a large folder into ``NAME-DATE-001.zip``, ``NAME-DATE-002.zip``, ..., each a zip of
its own with some of the files.
"""

from __future__ import annotations

import lzma
import re
import shutil
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hear_axlstm.checkpoints.authors.runs import ARCHIVE

LARGEST_CHECKPOINT = 8 << 30  # bytes: four times the optimizer state and weights of AxLSTM-B
PART = re.compile(r"(.*-)\d{3}\.zip", re.IGNORECASE)
DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, ValueError, RuntimeError),
)
"""Errors raised on reading a damaged or password-protected zip."""


@dataclass(frozen=True)
class Member:
    """A file on disk, or a member of a zip."""

    path: Path
    name: str = ""
    """Name in the zip; empty for a file on disk."""


def is_archive(path: Path) -> bool:
    """Whether a file is a zip, even a damaged one, but not a checkpoint, which is a zip, too."""
    is_zip = path.suffix.lower() == ARCHIVE
    return is_zip and not any(name.endswith("/data.pkl") for name in _names(path))


def files_in(place: Path) -> dict[str, Member]:
    """List the files of a folder, or of a zip and its other parts, by path.

    Paths start with the name of `place`. A zip that can't be read is listed as a file.
    """
    is_dir = place.is_dir()
    paths = [p for p in sorted(place.rglob("*")) if p.is_file()] if is_dir else _parts(place)
    return {
        (path.relative_to(place.parent) / name).as_posix(): Member(path, name)
        for path in paths
        for name in (_names(path) if is_archive(path) else []) or [""]
    }


def extract(member: Member, folder: Path) -> Path:
    """Unpack a member of a zip into a folder.

    Raises:
        ValueError: if the zip is damaged, or the member larger than any checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / PurePosixPath(member.name).name
    try:
        with zipfile.ZipFile(member.path) as archive:
            size = archive.getinfo(member.name).file_size
            if size > LARGEST_CHECKPOINT:
                raise ValueError(
                    f"{member.name} has {size:,} bytes, more than any published checkpoint: "
                    "download the file again"
                )
            with archive.open(member.name) as packed, target.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
    except DAMAGED as error:
        raise ValueError(f"{member.path} can't be unpacked ({error}): download it again") from None
    return target


def _parts(path: Path) -> list[Path]:
    """A zip and its other parts in the same folder."""
    match = PART.fullmatch(path.name)
    if match is None:
        return [path]
    others = (p for p in path.parent.iterdir() if p.name.startswith(match[1]))
    return sorted(p for p in others if PART.fullmatch(p.name))


def _names(path: Path) -> list[str]:
    """Names of the files in a zip; none if it can't be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name for name in archive.namelist() if not name.endswith("/")]
    except DAMAGED:
        return []
