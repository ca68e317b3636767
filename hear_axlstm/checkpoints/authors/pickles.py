"""The pickle program in a checkpoint: checked, and made harmless, before PyTorch runs it."""

from __future__ import annotations

import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import Any, NamedTuple

MOST_CALLS = 10_000  # operations that call or build something; twelve blocks take 1,100
MOST_ITEMS = 100_000  # of a tuple, with those of the tuples in it
DEEPEST = 100  # tuples in tuples
NEEDED = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(set|complex)"
    r"|torch\.(\w+Storage|b?float\d+|u?int\d+|bool|device|Size|serialization\._get_layout"
    r"|_utils\._rebuild_(tensor_v2|parameter)|nn\.parameter\.Parameter)"
)
"""Names that PyTorch may look up. It allows others that allocate memory on request."""

PUTS, GETS = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
CALLS = ("REDUCE", "NEWOBJ", "BUILD")
SMALL_INTEGERS = ("BININT", "BININT1", "BININT2")
SCALARS = ("BINFLOAT", "LONG1", "NONE", "NEWTRUE", "NEWFALSE")
TUPLES = ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
ON_INERT = {  # operation -> one with the same effect on the stack, whose result is ignored
    "APPEND": b"\x85b",
    "APPENDS": b"tb",
    "SETITEM": b"\x86b",
    "SETITEMS": b"tb",
    "REDUCE": b"b",
    "NEWOBJ": b"b",
}
"""PyTorch fills only its own containers, but BUILD (``b``) can set the state of any object."""


class _Name(str):
    """A global name that the pickle looks up, as opposed to a string in it."""


class _Tuple(NamedTuple):
    items: list[Any]
    size: int
    """Number of items, including those of nested tuples."""
    depth: int


_LIST, _SCALAR, _INERT = object(), object(), object()


def check(program: bytes) -> tuple[set[str], bytes]:
    """Trace a pickle's stack, and reject operations that could hang or crash the interpreter.

    Returns:
        The global names that it looks up, and a program that does the same, except that objects of
        classes that are not `NEEDED` get no items and are not called.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    names: set[str] = set()
    calls = 0
    harmless, copied = bytearray(), 0
    for operation, argument, position in pickletools.genops(program):
        assert position is not None  # it is None only for files that cannot be searched
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
            if operation.name in ON_INERT and taken[0] is _INERT:
                harmless += program[copied:position] + ON_INERT[operation.name]
                copied = position + 1
                stack.append(_INERT)
            else:
                stack += _results(operation, argument, taken)
    return names, bytes(harmless + program[copied:])


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
        raise ValueError("it takes more from its stack than it has")
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
        inner = [item for item in taken if isinstance(item, _Tuple)]
        size = 1 + len(taken) + sum(item.size - 1 for item in inner)
        depth = 1 + max((item.depth for item in inner), default=0)
        if size > MOST_ITEMS or depth > DEEPEST:
            raise ValueError("its tuples are too large, or nested too deeply")
        return [_Tuple(taken, size, depth)]
    if name == "EMPTY_LIST" or name.startswith("APPEND"):
        return [_LIST]
    if name in SCALARS:
        return [_SCALAR]
    if name.startswith("SETITEM"):
        for key in taken[1::2]:
            if not isinstance(key, (str, int, _Tuple)) and key not in (_SCALAR, _INERT):
                raise ValueError("the key of a dictionary is not a string, number or tuple")
    if name in CALLS[:2]:
        return [_result_of_call(*taken)]
    if name == "BUILD":
        if taken[0] is not _INERT and taken[1] is _LIST:
            raise ValueError("the state of an object is a list")
        return taken[:1]
    if name == "BINPERSID":
        _check_storage(taken[0])
    return [None for _ in operation.stack_after]


def _result_of_call(function: Any, arguments: Any) -> Any:
    if not isinstance(function, _Name) or not isinstance(arguments, _Tuple):
        raise ValueError("it calls something without a name")
    if function == "collections.OrderedDict" and arguments.items:
        raise ValueError("it fills an OrderedDict by a call")
    if function == "_codecs.encode" and arguments.items[1:] != ["latin1"]:
        raise ValueError("it encodes text other than as latin1 bytes")
    if function == "_codecs.encode":
        return _SCALAR
    return None if NEEDED.fullmatch(function) else _INERT


def _check_storage(description: Any) -> None:
    match description:
        case _Tuple(["storage", _Name(), str(), str(), int()]):
            return
    raise ValueError("the description of a tensor's values is malformed")
