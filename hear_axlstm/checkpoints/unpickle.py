"""Reading the tensors of a PyTorch checkpoint without running anything that is in it.

A checkpoint is a zip of one pickle and the raw values of its tensors. A pickle is a program that
may call whatever it can import; here it can import nothing: a name becomes an inert placeholder,
except for `OrderedDict` and the call that describes a tensor. So a checkpoint opens whose other
contents need packages that aren't installed, and a hostile one comes to nothing.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

ZIP_START = b"PK\x03\x04"
MOST_PICKLE_BYTES = 64 << 20  # the names and shapes of a checkpoint take some hundred KB
DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
}
MOST_TUPLES = 20_000  # AxLSTM-B has 4,000; hashing a million inside each other overflows the stack
PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
EXTENSIONS = ("EXT1", "EXT2", "EXT4")  # would be looked up among what the process has registered


class View(NamedTuple):
    """A tensor that has not been read yet: nothing in it can be trusted."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


class Storage(NamedTuple):
    """Values in the zip: the pickle's own words for kind, key, place and number."""

    words: Any


class Placeholder:
    """Stands for an object of any class: takes whatever a pickle does to one, and keeps nothing."""

    __slots__ = ()

    def __new__(cls, *_: Any, **__: Any) -> Placeholder:  # noqa: D102
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> Placeholder:  # noqa: D102
        return self

    def _ignore(self, *_: Any) -> None: ...

    __setstate__ = __setitem__ = append = extend = add = _ignore


class _DescribeTensor:
    """What a pickle finds as `torch._utils._rebuild_tensor_v2`; slots keep it unchangeable."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> View:
        return View(storage, offset, size, stride)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full == "collections.OrderedDict":
            return OrderedDict
        if full == "torch._utils._rebuild_tensor_v2":
            return _DescribeTensor()
        # A class of its own each time, so that nothing a pickle does to it outlasts the pickle.
        return type(full, (Placeholder,), {"__slots__": ()})

    def persistent_load(self, pid: Any) -> Storage:
        return Storage(pid)


class Checkpoint:
    """A checkpoint, open while it is entered.

    Attributes:
        contents: what was pickled, with placeholders for objects and `View` for tensors.

    Raises:
        ValueError: if it is of another format, damaged, or has no pickle that can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise self._damaged(error) from None
        self._prefix = self._find_prefix()
        try:
            data = self._read("data.pkl", MOST_PICKLE_BYTES)
            _check_program(data)
            self.contents = _Unpickler(io.BytesIO(data)).load()
        except Exception as error:  # a pickle can fail in any way
            raise self._damaged(error) from None

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def tensors(self, views: Mapping[str, View]) -> dict[str, Tensor]:
        """Read tensors, in float32.

        Raises:
            ValueError: for one that isn't floating-point, or lies outside of the stored values.
        """
        return {name: self._tensor(name, view) for name, view in views.items()}

    def _tensor(self, name: str, view: View) -> Tensor:
        try:
            _, kind, key, _, _ = view.storage.words
            dtype = DTYPES[kind.__name__]
            raw = bytearray(self._read(f"data/{key}", self.path.stat().st_size))
            values = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
            _check_bounds(view, len(values))
            return values.as_strided(view.size, view.stride, view.offset).float().contiguous()
        except Exception as error:
            raise ValueError(
                f"{self.path}: the tensor {name!r} can't be read "
                f"({type(error).__name__}: {error}): fetch the file again"
            ) from None

    def _find_prefix(self) -> str:
        names = [name for name in self._zip.namelist() if name.endswith("data.pkl")]
        if len(names) != 1 or names[0].count("/") != 1:
            raise ValueError(f"{self.path} is a zip, but none that torch.save wrote")
        prefix = names[0].removesuffix("data.pkl")
        if f"{prefix}byteorder" in self._zip.namelist():
            order = self._read_from(f"{prefix}byteorder", 16)
            if order != b"little":
                raise ValueError(f"{self.path} was written big-endian: save it on another machine")
        return prefix

    def _read(self, name: str, most: int) -> bytes:
        return self._read_from(self._prefix + name, most)

    def _read_from(self, name: str, most: int) -> bytes:
        info = self._zip.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > most:
            raise ValueError(f"{name} is compressed or too large")
        return self._zip.read(info)  # compares the CRC

    def _damaged(self, error: Exception) -> ValueError:
        reason = " ".join(str(error).split())
        return ValueError(
            f"{self.path} is no complete checkpoint ({type(error).__name__}: {reason}): fetch it "
            "again"
        )


def _check_program(data: bytes) -> None:
    """Refuse what no checkpoint needs and what could bring the interpreter down."""
    tuples = 0
    for operation, argument, _ in pickletools.genops(data):
        tuples += "TUPLE" in operation.name
        if tuples > MOST_TUPLES:
            raise ValueError("it is nested too deep")
        if operation.name in EXTENSIONS:
            raise ValueError("it uses the extension registry")
        if operation.name in PUTS and argument is not None and int(argument) > len(data):
            raise ValueError("its memo is larger than itself")


def _check_bounds(view: View, values: int) -> None:
    numbers = [view.offset, *view.size, *view.stride]
    if len(view.size) != len(view.stride) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError("its shape is not one")
    steps = zip(view.size, view.stride, strict=True)
    last = view.offset + sum((n - 1) * step for n, step in steps)
    if 0 not in view.size and (last >= values or math.prod(view.size) > values):
        raise ValueError(f"{tuple(view.size)} is more than the {values} values stored")
