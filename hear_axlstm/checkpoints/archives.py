"""Files on disk, and in the zips as which a browser saves a folder of Google Drive.

Drive splits a large folder into ``NAME-DATE-001.zip``, ``NAME-DATE-002.zip``, ..., each a zip of
its own with some of the files.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hear_axlstm.checkpoints.runs import ARCHIVE

LARGEST_CHECKPOINT = 8 << 30  # bytes: four times what optimizer and weights of AxLSTM-B take
PART = re.compile(r"(.*-)\d{3}\.zip", re.IGNORECASE)


@dataclass(frozen=True)
class Member:
    """A file on disk, or a member of a zip."""

    path: Path
    name: str = ""
    """Name in the zip; empty for a file on disk."""


def is_archive(path: Path) -> bool:
    """Whether a file is a zip, but not a checkpoint, which is a zip, too."""
    names = [member.name for member in _members(path)] if path.suffix.lower() == ARCHIVE else [""]
    return "" not in names and not any(name.endswith("/data.pkl") for name in names)


def files_in(place: Path) -> dict[str, Member]:
    """List the files of a folder, or of a zip and its other parts, by path."""
    is_dir = place.is_dir()
    paths = [p for p in sorted(place.rglob("*")) if p.is_file()] if is_dir else _parts(place)
    return {
        (path.relative_to(place.parent) / member.name).as_posix(): member
        for path in paths
        for member in _members(path)
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
            if archive.getinfo(member.name).file_size > LARGEST_CHECKPOINT:
                raise ValueError(
                    f"{member.name} in {member.path} is larger than any checkpoint of the release"
                )
            with archive.open(member.name) as packed, target.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ValueError(f"{member.path} is damaged ({error}): download it again") from error
    return target


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
