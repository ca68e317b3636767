"""Atomic file writes, folder locks and fingerprints."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LAYOUT = "2"  # version of all files with a fingerprint; changing it rebuilds them
REMEDIES = {
    errno.EEXIST: "a file is in the way, choose another name",
    errno.ENOTDIR: "a parent folder is a file, choose another name",
    errno.EISDIR: "a folder is in the way, choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EROFS: "choose another folder",
    errno.EACCES: "change its permissions, or choose another folder",
    errno.EPERM: "change its permissions, or choose another folder",
}
TEMPORARY = re.compile(r"(?P<name>.+)\.(?P<machine>\w+)-(?P<process>\d+)-\w+\.partial")
LEFTOVER_SECONDS = 24 * 3600  # no process leaves a temporary file alone for that long
LOCK_NAME = "lock"
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@contextmanager
def replacing(path: Path, can_be_lost: bool = False) -> Iterator[Path]:
    """Yield a temporary file next to `path` that replaces it if nothing fails.

    Each call has its own, so of several processes that write `path` the last one replaces it. Those
    left by killed processes are removed by the next call for the same `path`.

    Args:
        path: file to replace.
        can_be_lost: whether it is one of many files that can be computed again: it is not flushed
            to the disk, and `remove_leftovers` removes what killed processes have left.

    Raises:
        IsADirectoryError: at once, if `path` is a folder.
        OSError: if the disk is full; the message names the file and the remedy.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not can_be_lost:
        remove_leftovers(path.parent, path.name)
    owner = f"{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"
    partial = path.with_name(f"{path.name}.{owner}.partial")
    try:
        with naming_full_disk(path):
            partial.touch()
            mode = partial.stat().st_mode  # as the user's umask sets it; some libraries change it
            yield partial
            partial.chmod(mode)
            if not can_be_lost:
                with open(partial, "rb+") as file:
                    os.fsync(file.fileno())
            partial.replace(path)
    except OSError as error:
        if error.filename == str(partial):
            error.filename = str(path)  # the name that the user knows
        raise
    finally:
        with suppress(OSError):
            partial.unlink()


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove temporary files whose process has ended or which are a day old.

    Args:
        folder: folder of the files.
        name: name of the file that they were to replace; None for any.
    """
    with suppress(OSError):
        for found in os.listdir(folder):
            owner = TEMPORARY.fullmatch(found)
            if owner is None or name not in (None, owner["name"]):
                continue
            partial = folder / found
            is_old = time.time() - partial.stat().st_mtime > LEFTOVER_SECONDS
            is_here = owner["machine"] == _machine()
            if is_old or (is_here and not _is_running(int(owner["process"]))):
                partial.unlink()


def replaced_name(name: str) -> str:
    """The name of the file that a temporary file was to replace; other names are returned as is."""
    temporary = TEMPORARY.fullmatch(name)
    return temporary["name"] if temporary else name.removesuffix(".partial")


def _machine() -> str:
    """A short name for this machine, since process ids of others mean nothing here."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _is_running(process: int) -> bool:
    """Whether a process of this machine may still be running."""
    if os.name == "nt":  # where os.kill would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


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


def explain(error: OSError) -> str:
    """Describe an error of the operating system, with the path and a remedy."""
    if error.strerror is None:
        return str(error)
    if error.filename is None:
        return error.strerror
    remedy = REMEDIES.get(error.errno or 0, "check the path")
    return f"{os.fsdecode(error.filename)}: {error.strerror.lower()}: {remedy}"


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def sole_writer(folder: Path, name: str = LOCK_NAME) -> Iterator[None]:
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
