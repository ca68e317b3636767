"""The compiled library: finding it, and calling it with tensors."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hear_axlstm.ops.onednn import is_traced

log = logging.getLogger(__name__)

VERSION = 4  # of the functions in this folder's C++
GROUP = 16  # columns that products.h multiplies by one vector
ROWS, AT_ONCE = 8, 3  # rows and groups whose sums it keeps in registers
SWITCH = "HEAR_AXLSTM_NATIVE"
SUFFIXES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def is_in_use() -> bool:
    """Whether there is compiled code, which HEAR_AXLSTM_NATIVE=0 leaves unused.

    Raises:
        ValueError: if the environment variable is neither 0 nor 1.
    """
    switch = os.environ.get(SWITCH, "1")
    if switch not in ("0", "1"):
        raise ValueError(f"{SWITCH}={switch!r}: use 0 or 1")
    return switch == "1" and _library() is not None


def is_there_for(tensor: Tensor) -> bool:
    """Whether there is compiled code for products of tensors like this one."""
    if tensor.device.type != "cpu" or is_traced(tensor) or not is_in_use():
        return False
    return product_dtype(tensor) in SUFFIXES


def product_dtype(tensor: Tensor) -> torch.dtype:
    """The type in which products of a tensor on the CPU are computed."""
    autocast = torch.is_autocast_enabled("cpu") and tensor.dtype != torch.float64
    return torch.get_autocast_dtype("cpu") if autocast else tensor.dtype


def has_products() -> bool:
    """Whether there are products of our own, which the processor must have instructions for."""
    library = _library()
    return is_in_use() and library is not None and library.has_products() == 1


def call(name: str, *arguments: Any) -> None:
    """Call a function by its name in the C++ code, while other threads run.

    Args:
        name: without the dtype, which is that of the first tensor in `arguments`.
        arguments: dense tensors, integers, floats, and the structs: tuples of integers (Sizes) or
            of tensors (Weights, Gradients).
    """
    dtype = next(a.dtype for a in arguments if isinstance(a, Tensor))
    getattr(_library(), f"{name}_{SUFFIXES[dtype]}")(*map(_as_c, arguments))


def _as_c(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        assert argument.is_contiguous()
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    if isinstance(argument, float):
        return ctypes.c_float(argument)
    kind = ctypes.c_int64 if isinstance(argument[0], int) else ctypes.c_void_p
    return (kind * len(argument))(*(_as_c(part) for part in argument))


@cache
def _library() -> ctypes.CDLL | None:
    spec = importlib.util.find_spec("hear_axlstm.ops._cpu")
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
        library.native_version.restype = ctypes.c_int64
        is_ours = library.native_version() == VERSION
    except (OSError, AttributeError) as error:
        log.warning("%s does not load and stays unused: install again (%s)", spec.origin, error)
        return None
    if not is_ours:
        log.warning("%s is of another version and stays unused: install again", spec.origin)
    return library if is_ours else None
