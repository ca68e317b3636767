"""Archives of the official tasks: their sources, sizes and checksums."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import requests

from hearbench.download import TIMEOUT, FetchError, partial_size
from hearbench.tasks.fetch.convert import archive_bytes, folder_bytes
from hearbench.tasks.official import Mirror, OfficialTask

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One mirror's copy of an archive; copies may differ."""

    url: str
    size: int | None = None
    """Size in bytes, if the mirror lists it."""
    checksum: str = ""
    """`<algorithm>:<hex digits>`; empty if unknown."""


@dataclass(frozen=True)
class Archive:
    """The archive of one task."""

    task: OfficialTask
    path: Path
    """Path of the download."""
    sources: tuple[Source, ...]
    """The sources, in the order in which they are tried."""
    checksums: tuple[str, ...] = ()
    """The checksums that a file from any source may have; empty if unknown."""

    @property
    def size(self) -> int | None:
        """Size in bytes in the first listing that has it."""
        return next((source.size for source in self.sources if source.size is not None), None)

    @property
    def partial(self) -> Path:
        """The unfinished folder of the task, which keeps the work of an interrupted call."""
        return self.path.with_name(f"{self.task.folder}.partial")


@dataclass(frozen=True)
class Needs:
    """Download size and disk space that fetching needs, in bytes."""

    download: int
    disk: int
    """Peak disk space: the rest of all task folders and of the largest archive (or of all archives,
    if they are kept)."""
    free: int
    at_most: bool
    """Whether an archive's size is unknown and was replaced with an upper bound."""

    def __str__(self) -> str:
        bound = "at most " if self.at_most else ""
        return (
            f"{bound}{self.download / 1e9:,.1f} GB to download, "
            f"{bound}{self.disk / 1e9:,.1f} GB of disk needed, {self.free / 1e9:,.1f} GB free"
        )


def find_archives(
    tasks: Sequence[OfficialTask],
    folder: Path,
    mirrors: Sequence[Mirror],
    checksums: Mapping[str, str],
) -> list[Archive]:
    """Find the archive of each of `tasks`, to be downloaded into `folder`.

    Args:
        tasks: the tasks.
        folder: folder for the archives.
        mirrors: mirrors to search. If a mirror has a listing, its names, sizes and checksums are
            used; without one, or if it can't be reached, it may have any archive.
        checksums: checksums by file name, which override those of the mirrors.
    """
    listings = {mirror: _listing(mirror) for mirror in mirrors}
    archives = []
    for task in tasks:
        sources, given = [], checksums.get(task.archive, "")
        for mirror, listing in listings.items():
            if listing is not None and task.archive not in listing:
                first = task.archive.split("-")[:2]  # hear2021-<task name>
                similar = [name for name in listing if name.split("-")[:2] == first]
                has = ", ".join(similar) or "nothing like it"
                log.warning("%s has no %s; it has %s", mirror.files, task.archive, has)
                continue
            size, listed = listing[task.archive] if listing is not None else (None, "")
            sources.append(Source(f"{mirror.files}/{task.archive}", size, given or listed))
        accepted = dict.fromkeys(filter(None, (given, *(source.checksum for source in sources))))
        archives.append(Archive(task, folder / task.archive, tuple(sources), tuple(accepted)))
    return archives


def needs(archives: Sequence[Archive], folder: Path, rates: Sequence[int], keep: bool) -> Needs:
    """Estimate the space needed for task folders in `folder` at these sample rates."""
    sizes = [archive.size or archive_bytes(archive.task) for archive in archives]
    here = [partial_size(archive.path) for archive in archives]
    left = [max(0, size - part) for size, part in zip(sizes, here, strict=True)]
    folders = sum(
        max(0, folder_bytes(archive.task, rates) - _bytes_in(archive.partial))
        for archive in archives
    )
    existing = next(path for path in [folder, *folder.resolve().parents] if path.exists())
    at_most = any(archive.size is None for archive in archives)
    peak = sum(left) if keep else max(left, default=0)
    return Needs(sum(left), folders + peak, shutil.disk_usage(existing).free, at_most)


def read_checksums(file: Path) -> dict[str, str]:
    """Read a file as written by `md5sum` or `sha256sum`: hex digits by file name.

    Raises:
        FetchError: if it can't be read.
    """
    try:
        lines = [
            line.split(maxsplit=1)
            for line in file.read_text(encoding="utf-8").splitlines()
            if line.strip()
        ]
        return {Path(name.strip().lstrip("*")).name: digits for digits, name in lines}
    except (OSError, ValueError) as error:
        raise FetchError(
            f"{file}: not a list of checksums ({error}): write lines like sha256sum's, "
            "<hex digits>  <file name>"
        ) from error


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _listing(mirror: Mirror) -> dict[str, tuple[int | None, str]] | None:
    """Sizes and checksums of a mirror's files by name; None if it has no listing."""
    if not mirror.listing:
        return None
    try:
        response = requests.get(mirror.listing, timeout=TIMEOUT)
        response.raise_for_status()
        content = response.json()
        entries = content.get("entries") or content["files"]
        return {e["key"]: (e.get("size"), e.get("checksum") or "") for e in entries}
    except (requests.RequestException, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("no sizes and checksums from %s (%s)", mirror.listing, type(error).__name__)
        return None
