"""Reading a PyTorch checkpoint without executing anything that is in it.

``torch.load(weights_only=True)`` calls nothing but a few functions of PyTorch's own, and here every
other name stands for `Inert`. That keeps code from running, but not a malicious file from
hanging or crashing the process: it can hash or print tuples that are nested without end, or have
huge tensors allocated. So the zip and each operation of its pickle are checked first, against what
a checkpoint needs. The tensors stay on disk (``mmap``) until a caller copies them.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.serialization import (
    add_safe_globals,
    clear_safe_globals,
    get_safe_globals,
    get_unsafe_globals_in_checkpoint,
    safe_globals,
)

ZIP_START = b"PK\x03\x04"
MOST_PICKLE_BYTES = 1 << 20  # names, shapes and optimizer state of twelve blocks take 63 KB
MOST_CALLS = 10_000  # operations that call or build something; twelve blocks take 1,100
MOST_NESTED = 1_000  # items of a tuple, with those of the tuples in it
NEEDED = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(set|complex)"
    r"|torch\.(\w+Storage|b?float\d+|u?int\d+|bool|device|Size|serialization\._get_layout"
    r"|_utils\._rebuild_(tensor_v2|parameter)|nn\.parameter\.Parameter)"
)
"""Names that PyTorch may look up. It knows others that allocate memory for the asking."""

PUTS, GETS = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
CALLS = ("REDUCE", "NEWOBJ", "BUILD")
SMALL_INTEGERS = ("BININT", "BININT1", "BININT2")
SCALARS = ("BINFLOAT", "LONG1", "NONE", "NEWTRUE", "NEWFALSE")
TUPLES = ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")


class Inert:
    """Stand-in for an object of any class; ignores its arguments and state."""

    __slots__ = ()

    def __new__(cls, *_: Any) -> Inert:  # noqa: D102
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


class _Name(str):
    """A global name that the pickle looks up, as opposed to a string in it."""


class _Tuple(NamedTuple):
    items: list[Any]
    size: int
    """Number of items, including those of nested tuples."""


_LIST, _SCALAR = object(), object()


def load(path: Path) -> Any:
    """Read a checkpoint: tensors on the CPU, plain values, and `Inert` objects.

    Tensors refer to the file, which must not change while they are in use.

    Raises:
        ValueError: if the file is damaged, is not a checkpoint, or uses a name that is not allowed.
    """
    try:
        names = _check_program(_read_program(path))
        with _without_allowed_names():
            inert = set(get_unsafe_globals_in_checkpoint(path))
            if refused := sorted(n for n in names if not NEEDED.fullmatch(n) and n not in inert):
                raise ValueError(f"it uses {refused[0]}, which no such checkpoint needs")
            with safe_globals([(Inert, name) for name in inert]):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a pickle can fail in any way
        reason = " ".join(str(error).split()).removeprefix("Weights only load failed. ")[:200]
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
            raise ValueError("it has two members of one name")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("it is compressed")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its members are larger than the file")
        if archive.getinfo(programs[0]).file_size > MOST_PICKLE_BYTES:
            raise ValueError(f"{programs[0]} is larger than {MOST_PICKLE_BYTES:,} bytes")
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} does not match its checksum")
        return archive.read(programs[0])


def _check_program(program: bytes) -> set[str]:
    """Trace a pickle's stack, and reject operations that could hang or crash the interpreter.

    Returns:
        The global names that it looks up.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    names: set[str] = set()
    calls = 0
    for operation, argument, _ in pickletools.genops(program):
        if operation.name == "MARK":
            marks.append(len(stack))
        elif operation.name in PUTS:
            memo[argument] = stack[-1]
        elif operation.name in GETS:
            stack.append(memo[argument])
        elif operation.name == "GLOBAL":
            stack.append(_Name(_full_name(str(argument))))
            names.add(stack[-1])
        else:
            calls += operation.name in CALLS
            if calls > MOST_CALLS:
                raise ValueError("it calls too many functions")
            taken = _take(stack, marks, operation.stack_before)
            stack += _results(operation, argument, taken)
    return names


def _full_name(argument: str) -> str:
    """Name in Python 3; pickles of this protocol use those of Python 2."""
    module, name = argument.split(" ", 1)
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _take(stack: list[Any], marks: list[int], before: list[Any]) -> list[Any]:
    """Remove an operation's arguments from the stack, the lowest first."""
    if pickletools.markobject in before:
        start = marks.pop() - before.index(pickletools.markobject)
    else:
        start = len(stack) - len(before)
    if start < 0:
        raise ValueError("it takes more from its stack than is there")
    taken = stack[start:]
    del stack[start:]
    return taken


def _results(operation: Any, argument: Any, taken: list[Any]) -> list[Any]:
    """Results that an operation leaves on the stack, as far as later checks need them.

    Names, strings, small integers and tuples keep their values, lists and other scalars become
    `_LIST` and `_SCALAR`, the rest None.
    """
    name = operation.name
    if name == "BINUNICODE" or name in SMALL_INTEGERS:
        return [argument]
    if name in TUPLES:
        size = 1 + sum(item.size if isinstance(item, _Tuple) else 1 for item in taken)
        if size > MOST_NESTED:
            raise ValueError("its tuples are nested too deep")
        return [_Tuple(taken, size)]
    if name == "EMPTY_LIST" or name.startswith("APPEND"):
        return [_LIST]
    if name in SCALARS:
        return [_SCALAR]
    if name.startswith("SETITEM"):
        for key in taken[1::2]:
            if not isinstance(key, (str, int, _Tuple)) and key is not _SCALAR:
                raise ValueError("the key of a dictionary is not a string, number or tuple")
    if name in CALLS[:2]:
        _check_call(*taken)
    if name == "BUILD" and taken[1] is _LIST:
        raise ValueError("the state of an object is a list")
    if name == "BINPERSID":
        _check_storage(taken[0])
    return [None for _ in operation.stack_after]


def _check_call(function: Any, arguments: Any) -> None:
    if not isinstance(function, _Name) or not isinstance(arguments, _Tuple):
        raise ValueError("it calls something without a name")
    if function == "collections.OrderedDict" and arguments.items:
        raise ValueError("it fills an OrderedDict by a call")
    if function == "_codecs.encode" and arguments.items[1:] != ["latin1"]:
        raise ValueError("it encodes text other than as latin1 bytes")


def _check_storage(description: Any) -> None:
    match description:
        case _Tuple(["storage", _Name(), str(), str(), int()]):
            return
    raise ValueError("the description of a tensor's values is malformed")
