"""Safe reading of untrusted task archives: yields expected files and extracts nothing.

Members are read one after another and returned as bytes with validated names, so that paths,
links or devices in the archive have no effect. Bounds on the sizes keep a small archive from
filling the disk.
"""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hearbench.download import FetchError

LARGEST_MEMBER = 64 << 20  # bytes; half a minute of 48 kHz audio has 3 to 12 million
NAME = re.compile(r"[^\x00-\x1f\x7f\\/:]+")  # one path component on any system


@dataclass(frozen=True)
class Member:
    """One file of a task."""

    path: PurePosixPath
    """Below the task's folder, e.g. `48000/train/clip.wav`."""
    content: bytes


def members(archive: Path, folder: str, sample_rate: int, largest: int) -> Iterator[Member]:
    """The descriptions (`*.json`, `*.csv`) and clips of the task `folder`, in archive order.

    Args:
        archive: a .tar.gz; its files are below `tasks/<folder>/`, or, as made by hearpreprocess,
            below `hear-<version>/tasks/<folder>/`.
        folder: name of the task's folder.
        sample_rate: sample rate of the audio, which is in `<sample_rate>/<split>/<clip>`.
        largest: maximum total size of all members in bytes.

    Raises:
        FetchError: for anything that does not belong in such an archive, or a damaged one.
    """
    seen: set[PurePosixPath] = set()
    total = 0
    try:
        with gzip.open(archive) as unzipped, tarfile.open(fileobj=unzipped, mode="r|") as tar:
            for info in tar:
                total += info.size
                if info.size > LARGEST_MEMBER or total > largest:
                    why = f"it is too large ({total:,} bytes so far)"
                    raise _refused(archive, info.name, why)
                path = _checked(info, archive, folder, sample_rate)
                if path is None:
                    continue
                if path in seen:
                    raise _refused(archive, info.name, "it occurs twice")
                seen.add(path)
                content = tar.extractfile(info)
                assert content is not None  # it is a regular file
                yield Member(path, content.read())
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise FetchError(
            f"{archive} is damaged ({error}): delete it and run the command again"
        ) from error


def _checked(
    info: tarfile.TarInfo, archive: Path, folder: str, sample_rate: int
) -> PurePosixPath | None:
    """Path of a member below the task's folder; None if it is not needed."""
    if not (info.isdir() or info.type in (tarfile.REGTYPE, tarfile.AREGTYPE)) or info.issparse():
        raise _refused(archive, info.name, "it is a link, a device or otherwise not a regular file")
    parts = [part for part in info.name.split("/") if part not in ("", ".")]
    plain = all(NAME.fullmatch(part) and part.strip(".") for part in parts)
    if info.name.startswith("/") or not plain:
        raise _refused(archive, info.name, "its path is not plain")
    if info.isdir():
        return None
    if parts and parts[0].startswith("hear"):
        parts = parts[1:]
    if parts[:2] != ["tasks", folder]:
        raise _refused(archive, info.name, f"it is outside tasks/{folder}")
    parts = parts[2:]
    if len(parts) == 3 and parts[0] == str(sample_rate):
        return PurePosixPath(*parts)
    if len(parts) == 1:
        path = PurePosixPath(parts[0])
        return path if path.suffix in (".json", ".csv") else None
    raise _refused(archive, info.name, f"clips must be in {sample_rate}/<split>")


def _refused(archive: Path, name: str, why: str) -> FetchError:
    return FetchError(
        f"{archive} is not an archive of a HEAR task: it contains {name[:200]!r} and {why}; "
        "delete it and get it from another source"
    )
