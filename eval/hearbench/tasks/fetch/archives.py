"""Which archives the official tasks need, where they lie, and what getting them will take."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import requests

from hearbench.tasks.fetch.convert import archive_bytes, folder_bytes
from hearbench.tasks.fetch.download import TIMEOUT, FetchError, partial_size
from hearbench.tasks.official import Mirror, OfficialTask

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """The archive of one task."""

    task: OfficialTask
    path: Path
    """Where it is downloaded to."""
    urls: tuple[str, ...]
    """Where it may be had, to be tried in this order."""
    size: int | None = None
    """In bytes, if a mirror tells."""
    checksum: str = ""
    """`<algorithm>:<hex digits>`; empty if nobody tells."""


@dataclass(frozen=True)
class Needs:
    """What fetching takes, in bytes."""

    download: int
    disk: int
    """At the peak: all task folders, and the largest archive (or all, if they are kept)."""
    free: int
    at_most: bool
    """Whether some archive's size is not known, and was bounded."""

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
    """The archive of each of `tasks`, to be downloaded into `folder`.

    Args:
        tasks: which tasks.
        folder: for the archives.
        mirrors: where to look. One that lists its files is taken at its word, in names, sizes and
            checksums; one that doesn't, or can't be reached, may have any.
        checksums: file name -> checksum, for files that it knows better than the mirrors.
    """
    listings = {mirror: _listing(mirror) for mirror in mirrors}
    archives = []
    for task in tasks:
        urls, size, checksum = [], None, checksums.get(task.archive, "")
        for mirror, listing in listings.items():
            if listing is not None and task.archive not in listing:
                first = task.archive.split("-")[:2]  # hear2021-<task name>
                similar = [name for name in listing if name.split("-")[:2] == first]
                has = ", ".join(similar) or "nothing like it"
                log.warning("%s has no %s; it has %s", mirror.files, task.archive, has)
                continue
            urls.append(f"{mirror.files}/{task.archive}")
            if listing is not None and size is None:
                size, listed = listing[task.archive]
                checksum = checksum or listed
        archives.append(Archive(task, folder / task.archive, tuple(urls), size, checksum))
    return archives


def needs(archives: Sequence[Archive], folder: Path, rates: Sequence[int], keep: bool) -> Needs:
    """What it takes to make task folders in `folder` at these sample rates."""
    sizes = [archive.size or archive_bytes(archive.task) for archive in archives]
    here = [partial_size(archive.path) for archive in archives]
    left = [max(0, size - part) for size, part in zip(sizes, here, strict=True)]
    folders = sum(folder_bytes(archive.task, rates) for archive in archives)
    existing = next(path for path in [folder, *folder.resolve().parents] if path.exists())
    at_most = any(archive.size is None for archive in archives)
    peak = sum(left) if keep else max(left, default=0)
    return Needs(sum(left), folders + peak, shutil.disk_usage(existing).free, at_most)


def read_checksums(file: Path) -> dict[str, str]:
    """File name -> hex digits, of a file as `md5sum` and `sha256sum` write it.

    Raises:
        FetchError: if it can't be read.
    """
    try:
        lines = [line.split(maxsplit=1) for line in file.read_text().splitlines() if line.strip()]
        return {Path(name.strip().lstrip("*")).name: digits for digits, name in lines}
    except (OSError, ValueError) as error:
        raise FetchError(
            f"{file}: not a list of checksums ({error}): write lines as sha256sum does, "
            "<hex digits>  <file name>"
        ) from error


def _listing(mirror: Mirror) -> dict[str, tuple[int | None, str]] | None:
    """Name -> size and checksum of what a mirror has; None if it doesn't tell."""
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
