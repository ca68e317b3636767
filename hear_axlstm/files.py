"""Atomic file writes, folder locks and fingerprints."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LAYOUT = "2"  # version of the files made from the texts; changing it rebuilds them
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file next to `path` that replaces it if nothing fails.

    Raises:
        OSError: if the disk is full; the message names the file and the remedy.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with naming_full_disk(path):
            yield partial
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Make a "no space left" error name the file and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL and "free some" not in str(error):
            raise OSError(
                error.errno,
                f"no space left to write {path}: free some space and run the same command again to "
                "resume",
            ) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def sole_writer(folder: Path, name: str = "lock") -> Iterator[None]:
    """Lock a folder so that no other process writes into it.

    Raises:
        BlockingIOError: if another process has locked it.
    """
    try:
        lock = FileLock(folder / name).acquire(timeout=0)
    except Timeout as error:
        raise BlockingIOError(
            f"{folder} is being written by another process: wait for it, stop it, or choose "
            "another folder"
        ) from error
    with lock:
        yield


def digest(parts: Iterable[str]) -> str:
    """A short fingerprint of texts."""
    text = "\n".join((LAYOUT, *parts))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
