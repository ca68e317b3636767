"""Loading the compiled library and calling its functions with checked arguments."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hear_axlstm.ops.contract import CONV_WIDTH, MAP_WIDTH, MixerWeights
from hear_axlstm.ops.tracing import check_storage

log = logging.getLogger(__name__)

INTERFACE = 10  # version of the functions below, incremented with every change
SUFFIXES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class Sizes(NamedTuple):
    """Sizes of the tensors inside a block."""

    windows: int
    tokens: int
    heads: int
    maps: int
    """4 x 4 blocks of a head in the block-diagonal maps."""

    @property
    def head_size(self) -> int:
        """Head size, K."""
        return self.maps * MAP_WIDTH


class _Sizes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in Sizes._fields]


class _MixerWeights(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in MixerWeights._fields]


class _BlockWeights(ctypes.Structure):
    _fields_ = [
        ("mixer", _MixerWeights),
        *((name, ctypes.c_void_p) for name in ("norm", "up", "down")),
        ("width", ctypes.c_int64),
        *((name, ctypes.c_float) for name in ("cell_eps", "norm_eps", "largest_exponent")),
    ]


# The parameters of each function. T, f and d are tensors of the function's dtype, float32 and
# float64; i and x are integers and floats; S is Sizes; W is Weights or their gradients; B is the
# weights of a whole block, from `block_weights`.
SIGNATURES = {
    "before_cell": "SWTTTTf",
    "after_cell": "SWTffTTxxT",
    "block_begin": "SBfiTTf",
    "block_end": "SBffdffiTf",
    "after_cell_backward": "SWTffTTxxTTfffTW",
    "before_cell_backward": "SWTffTTTTW",
    "gemm": "TTiiiiT",
    "weighted_sum": "STTTddiTf",
    "weighted_sum_backward": "STTTddTfiTTTff",
}
_STRUCTS: dict[str, type[ctypes.Structure]] = {"S": _Sizes, "W": _MixerWeights, "B": _BlockWeights}
_NUMBERS: dict[str, Any] = {"i": ctypes.c_int64, "x": ctypes.c_float}


def is_available() -> bool:
    """Whether the compiled library exists and loads."""
    return _library() is not None


def gemm_columns() -> int:
    """Columns in each packed group of a weight; 0 without the library."""
    library = _library()
    return 0 if library is None else library.gemm_columns()


def gemm_is_fastest(dtype: torch.dtype) -> bool:
    """Whether the library's `gemm` is at least as fast as torch's products on this processor."""
    library = _library()
    return library is not None and bool(library.gemm_is_fastest(dtype.itemsize))


def call(name: str, *arguments: Any) -> None:
    """Call a function of the library with the GIL released.

    Args:
        name: one of `SIGNATURES`, without the dtype, which is that of the first tensor of kind T.
        arguments: arguments as listed in `SIGNATURES`; tensors must be dense and on the CPU.

    Raises:
        TypeError: for an argument of the wrong type.
        MemoryError: if memory runs out.
    """
    kinds = SIGNATURES[name]
    dtype = arguments[kinds.index("T")].dtype
    dtypes = {"T": dtype, "f": torch.float32, "d": torch.float64}
    if dtype not in SUFFIXES or len(arguments) != len(kinds):
        supported = " or ".join(map(str, SUFFIXES))
        raise TypeError(
            f"{name} takes {len(kinds)} arguments of dtype {supported}, got {len(arguments)} of "
            f"{dtype}"
        )
    converted: list[Any] = []
    for kind, argument in zip(kinds, arguments, strict=True):
        if kind in dtypes:
            converted.append(_address(argument, dtypes[kind], name))
        elif kind == "S":
            converted.append(ctypes.byref(_Sizes(*argument)))
        else:
            converted.append(_weights(argument) if kind == "W" else argument)
    if _function(name, SUFFIXES[dtype])(*converted):
        raise MemoryError(f"out of memory in {name}")


def block_weights(
    mixer: MixerWeights, norm: Tensor, up: Tensor, down: Tensor, numbers: Sequence[float]
) -> ctypes.Structure:
    """Convert the weights of a whole block for many calls; the caller keeps the tensors.

    Args:
        mixer: fused weights, float32.
        norm: scale of the first norm, float32.
        up: packed projection, like `down`.
        down: packed projection.
        numbers: model width, `EPS` for scores without 1 / sqrt(K), `NORM_EPS`, `LARGEST_EXPONENT`.
    """
    addresses = [_address(norm, torch.float32, "norm")]
    addresses += [_address(weight, weight.dtype, "projection") for weight in (up, down)]
    return _BlockWeights(_weights(mixer), *addresses, *numbers)


def _weights(tensors: Sequence[Tensor]) -> ctypes.Structure:
    return _MixerWeights(*(_address(tensor, torch.float32, "weights") for tensor in tensors))


def _address(tensor: Any, dtype: torch.dtype, name: str) -> int:
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        raise TypeError(f"{name}: {type(tensor).__name__} instead of a tensor")
    if tensor.dtype != dtype or not tensor.is_cpu or not tensor.is_contiguous():
        raise TypeError(
            f"{name}: a tensor of {tensor.dtype} on {tensor.device} with strides {tensor.stride()} "
            f"instead of a dense one of {dtype} on the CPU"
        )
    check_storage(tensor, name)
    return tensor.data_ptr()


@cache
def _function(name: str, suffix: str) -> Callable[..., int]:
    function = getattr(_library(), f"{name}_{suffix}")
    function.restype = ctypes.c_int64
    function.argtypes = [
        _NUMBERS.get(kind)
        or (ctypes.POINTER(_STRUCTS[kind]) if kind in _STRUCTS else None)
        or ctypes.c_void_p
        for kind in SIGNATURES[name]
    ]
    return function


@cache
def _library() -> ctypes.CDLL | None:
    spec = importlib.util.find_spec("hear_axlstm.ops._cpu")
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
        exported = (ctypes.c_int64 * 3).in_dll(library, "constants")
    except (OSError, ValueError) as error:
        log.warning("%s can't be loaded and is not used: reinstall (%s)", spec.origin, error)
        return None
    if tuple(exported) != (INTERFACE, CONV_WIDTH, MAP_WIDTH):
        log.warning("%s is from another version and is not used: reinstall", spec.origin)
        return None
    library.gemm_columns.restype = library.gemm_is_fastest.restype = ctypes.c_int64
    library.gemm_is_fastest.argtypes = [ctypes.c_int64]
    return library
