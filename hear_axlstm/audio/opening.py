"""A path, bytes or a file object, opened as one seekable binary file."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, BinaryIO, TypeAlias

from hear_axlstm.audio.errors import Fault, printable

AudioFile: TypeAlias = "str | bytes | bytearray | memoryview | os.PathLike[str] | IO[bytes]"
"""Path of a file, its content, or an open binary file."""

CHECK_PATH = "check the path"
NOT_REGULAR = {
    stat.S_IFDIR: "a folder, not a file",
    stat.S_IFIFO: "a FIFO (named pipe), not a regular file",
    stat.S_IFSOCK: "a socket, not a regular file",
}


def source_name(source: object, nameless: str) -> str:
    """Name of the source in messages: its path if it has one, else `nameless`."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) and name else nameless


@contextmanager
def open_file(source: AudioFile) -> Iterator[BinaryIO]:
    """Open the whole source as a seekable binary file; a file object passed in is left open.

    Raises:
        Fault: if the source is missing, not a regular file, not readable or empty.
        TypeError: if it is not a path, bytes or a file object.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield _not_empty(io.BytesIO(source))
    elif isinstance(source, (str, os.PathLike)):
        with _open_path(source) as file:
            yield _not_empty(file)
    elif callable(getattr(source, "read", None)):
        yield _seekable(source)
    else:
        raise TypeError(
            f"an audio source is a path, bytes or an open binary file, not {type(source).__name__}"
        )


def _open_path(path: str | os.PathLike[str]) -> BinaryIO:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # opening a FIFO would wait for its writer
            kind = NOT_REGULAR.get(stat.S_IFMT(mode), "a device, not a regular file")
            raise Fault(f"{kind}: pass a file")
        return open(path, "rb")
    except ValueError as error:  # NUL in the name
        raise Fault(f"{error} in the path: {CHECK_PATH}") from error
    except OSError as error:
        raise Fault(_why_not_opened(path, error)) from error


def _why_not_opened(path: str | os.PathLike[str], error: OSError) -> str:
    if error.errno == errno.ENAMETOOLONG:
        return f"no such file: its path is too long for this system: {CHECK_PATH}"
    if error.errno == errno.ELOOP:
        return "a symbolic link that leads back to itself: replace it with the file"
    if isinstance(error, PermissionError):
        return "no permission to read it: change its mode or that of its folder"
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        target = os.fsdecode(os.readlink(path))
        remedy = "run `git annex get`" if "annex/objects" in target else "restore that file"
        return f"a dangling symbolic link (to {printable(target)}): {remedy}"
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return f"no such file: {_hint(os.fsdecode(path))}"
    return f"can't be opened ({error.strerror or error}): check the disk or the network"


def _hint(path: str) -> str:
    if "://" in path:
        return "download it first; URLs are not read"
    if path.startswith("~"):
        return "write out ~, e.g. with os.path.expanduser"
    return CHECK_PATH


def _seekable(file: Any) -> BinaryIO:
    """The file itself, or a copy of its remaining content if it can't seek."""
    try:
        if isinstance(file, io.TextIOBase):
            raise Fault('opened as text: open it with mode "rb"')
        if callable(getattr(file, "seekable", None)) and file.seekable():
            file.seek(0)
            _check_content(file.read(0))
            return _not_empty(file)
        with suppress(AttributeError, OSError):  # an mmap can seek, but has no `seekable` yet
            file.seek(0)
        data = file.read()
    except Fault:
        raise
    except Exception as error:  # closed, opened for writing, or an error of some library
        raise Fault(f"not readable ({error}): open the file for reading") from error
    _check_content(data)
    return _not_empty(io.BytesIO(data))


def _check_content(data: object) -> None:
    if not isinstance(data, bytes):
        raise Fault(f'read() returns {type(data).__name__}, not bytes: open it with mode "rb"')


def _not_empty(file: BinaryIO) -> BinaryIO:
    if not file.seek(0, io.SEEK_END):
        raise Fault("empty, 0 bytes: copy the file again")
    file.seek(0)
    return file
