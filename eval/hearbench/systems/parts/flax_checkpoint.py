"""Parameters of a Flax checkpoint: one msgpack file, read without Flax.

`flax.serialization` writes an array as extension 1, whose content is again msgpack: shape, name of
the type, raw little-endian values in C order; extension 3 is the same for a scalar. Only `params`
is kept: the optimizer's state is twice as large.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import torch
from torch import Tensor

from hearbench.systems.parts.checkpoint import CheckpointError

ARRAY, SCALAR = 1, 3  # extension types
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


def read_params(path: Path) -> dict[str, Tensor]:
    """The arrays under `params`, by their path in the tree joined by "/".

    Raises:
        CheckpointError: if the file is damaged, of another format or incomplete.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file: give the folder of a run")
    try:
        with path.open("rb") as file:
            unpacker = msgpack.Unpacker(
                file, ext_hook=_extension, raw=False, max_buffer_size=max(path.stat().st_size, 1)
            )
            for _ in range(unpacker.read_map_header()):
                if unpacker.unpack() == "params":
                    return dict(_leaves(unpacker.unpack(), "", path))
                unpacker.skip()
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file may fail in any way
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path} is not a complete Flax checkpoint ({type(error).__name__}: {reason}): "
            "download it again"
        ) from None
    raise CheckpointError(f"{path} contains no 'params': it is not a checkpoint of a model")


def _extension(kind: int, data: bytes) -> Any:
    if kind not in (ARRAY, SCALAR):
        return msgpack.ExtType(kind, data)
    shape, dtype, values = msgpack.unpackb(data, raw=False)
    if dtype not in DTYPES:
        return msgpack.ExtType(kind, data)  # e.g. an integer; parameters are floating-point
    if math.prod(shape) * DTYPES[dtype].itemsize != len(values):
        raise ValueError(f"an array of shape {list(shape)} has {len(values)} bytes")
    flat = torch.frombuffer(bytearray(values), dtype=DTYPES[dtype]) if values else torch.empty(0)
    return flat.reshape(list(shape))


def _leaves(tree: Any, prefix: str, path: Path) -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield prefix, tree
    elif isinstance(tree, dict) and "__msgpack_chunked_array__" not in tree:
        for name, value in tree.items():
            yield from _leaves(value, f"{prefix}/{name}" if prefix else str(name), path)
    elif isinstance(tree, str) and tree.startswith("PLACEHOLDER://"):
        raise CheckpointError(
            f"{path}: {prefix!r} is stored in a separate folder ({tree}), which is not supported"
        )
    else:
        raise CheckpointError(f"{path}: {prefix!r} is not an array of at most 1 GiB")
