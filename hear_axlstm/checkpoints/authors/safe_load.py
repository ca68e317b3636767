"""Reading a PyTorch checkpoint without executing anything that is in it.

``torch.load(weights_only=True)`` calls only a few of PyTorch's own functions, and here every other
name resolves to `Inert`. That keeps code from running, but not a malicious file from
hanging or crashing the process: it can make Python hash or print endlessly nested tuples, or
allocate huge tensors. So the zip and each operation of its pickle (`pickles`) are checked first,
against what a checkpoint needs. The tensors stay on disk (``mmap``) until a caller copies them.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from threading import Lock
from typing import IO, Any

import torch
from torch.serialization import (
    add_safe_globals,
    clear_safe_globals,
    get_safe_globals,
    get_unsafe_globals_in_checkpoint,
    safe_globals,
)

from hear_axlstm.checkpoints.authors import pickles

ZIP_START = b"PK\x03\x04"
_NAMES_LOCK = Lock()  # the allowed names belong to the process
MOST_PICKLE_BYTES = 1 << 20  # names, shapes and optimizer state of twelve blocks take 63 KB


class Inert:
    """Stand-in for an object of any class; ignores its arguments and state."""

    __slots__ = ()

    def __new__(cls, *_: Any) -> Inert:  # noqa: D102
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def load(path: Path) -> Any:
    """Read a checkpoint: tensors on the CPU, plain values, and `Inert` objects.

    Tensors refer to the file, which must not change while they are in use.

    Raises:
        ValueError: if the file is damaged, is not a checkpoint, or uses a name that is not allowed.
    """
    try:
        program = _read_program(path)
        names, harmless = pickles.check(program)
        with _NAMES_LOCK, _without_allowed_names():
            inert = set(get_unsafe_globals_in_checkpoint(path))
            if refused := sorted(
                n for n in names if n not in inert and not pickles.NEEDED.fullmatch(n)
            ):
                raise ValueError(f"it uses {refused[0]}, which no such checkpoint needs")
            with safe_globals([(Inert, name) for name in inert]):
                if harmless == program:
                    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                with _copy(path, harmless) as copy:
                    return torch.load(copy, map_location="cpu", weights_only=True)
    except UnpicklingError:  # its text recommends running what is in the file
        raise ValueError(
            f"{path} can't be read as a PyTorch checkpoint without running code that is in it: "
            "pass the weights in another format"
        ) from None
    except zipfile.BadZipFile:
        raise ValueError(f"{path} is damaged or cut off: download it again") from None
    except Exception as error:  # a pickle can fail in any way
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} can't be read as a PyTorch checkpoint ({type(error).__name__}: {reason}): "
            "download it again"
        ) from None


@contextmanager
def _without_allowed_names() -> Iterator[None]:
    """Suspend the names that the calling program allows PyTorch to unpickle."""
    allowed = get_safe_globals()
    clear_safe_globals()
    try:
        yield
    finally:
        add_safe_globals(allowed)


def _read_program(path: Path) -> bytes:
    """Read the pickle from a zip whose members are intact, uncompressed and unambiguous."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        programs = [name for name in names if name.endswith("/data.pkl")]
        if len(programs) != 1 or {n.split("/")[0] for n in names} != {programs[0].split("/")[0]}:
            raise ValueError("it is a zip, but torch.save did not write it")
        if len({name.lower() for name in names}) < len(names):
            raise ValueError("it has two members with the same name")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("it is compressed")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its members are larger than the file")
        if archive.getinfo(programs[0]).file_size > MOST_PICKLE_BYTES:
            raise ValueError(f"{programs[0]} is larger than {MOST_PICKLE_BYTES:,} bytes")
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} does not match its checksum")
        return archive.read(programs[0])


@contextmanager
def _copy(path: Path, program: bytes) -> Iterator[IO[bytes]]:
    """A temporary copy of a checkpoint with another pickle in it."""
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(file, "w") as new:
            for name in old.namelist():
                new.writestr(name, program if name.endswith("/data.pkl") else old.read(name))
        file.seek(0)
        yield file
