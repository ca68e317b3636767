"""Published checkpoints -> tensors -> modules; nothing that a file contains is ever executed.

`torch.load(weights_only=True)` refuses checkpoints that name any class but torch's own, and many
published ones contain an `argparse.Namespace` beside the weights. Here an inert stand-in replaces
every such class: it accepts any operation of a pickle and stores nothing.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from hearbench.errors import HearbenchError

SHOWN = 3  # names of each kind in an error
HEAD_WIDTH = 64  # of every attention in these systems; checkpoints do not contain it


class CheckpointError(HearbenchError, ValueError):
    """Raised for a file without weights of the requested system."""


def checkpoint_path(model_file_path: str, example: str) -> Path:
    """The path of a checkpoint that exists.

    Args:
        model_file_path: what the HEAR API passes to `load_model`.
        example: the official name of such a checkpoint, for the message.

    Raises:
        CheckpointError: if it is empty or does not exist.
    """
    if not model_file_path:
        raise CheckpointError(
            f"no checkpoint: give the path of {example} (`hearbench systems` says where it is "
            "published)"
        )
    path = Path(model_file_path).expanduser()
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: give the path of {example}")
    return path


def latest(folder: Path, name: str) -> Path:
    """The entry `<name><number>` of `folder` with the highest number; a suffix may follow.

    Raises:
        CheckpointError: if there is none.
    """
    found = {}
    for path in folder.iterdir():
        if match := re.fullmatch(re.escape(name) + r"(\d+)(\.pth)?", path.name):
            found[int(match[1])] = path
    if not found:
        raise CheckpointError(f"{folder} contains no {name}<number>: give the folder of a run")
    return found[max(found)]


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """Read the content of a checkpoint; objects of unknown classes become empty stand-ins.

    Raises:
        CheckpointError: if it is damaged, of another format or not a dict.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory: give the checkpoint file")
    if reason := _not_a_checkpoint(path):
        raise CheckpointError(
            f"{path} is not a complete PyTorch checkpoint ({reason}): download it again"
        )
    zipped = zipfile.is_zipfile(path)
    try:
        unknown = get_unsafe_globals_in_checkpoint(str(path)) if zipped else []
        with safe_globals([(_stand_in(name), name) for name in unknown]):
            # mapped, because a checkpoint may hold an optimizer that is twice as large
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception:  # of any type, with texts that recommend running what is in the file
        raise CheckpointError(
            f"{path} is not a complete PyTorch checkpoint (it is damaged, of another kind, or "
            "could be read only by running code that is in it): download it again"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dict of tensors")
    return content


def _not_a_checkpoint(path: Path) -> str:
    """Describe a file that is not a checkpoint by its first bytes; empty if they show nothing."""
    with path.open("rb") as file:
        start = file.read(16).lstrip()
    if start.startswith(b"<"):
        return "it is a web page"
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        return "it is cut off"
    return "" if start else "it is empty"


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint by their names, and its file, which all errors name."""

    path: Path
    tensors: Mapping[str, Tensor]

    def shape(self, name: str, dims: int) -> tuple[int, ...]:
        """The shape of a tensor of `dims` dimensions.

        Raises:
            CheckpointError: if it is missing or has another number of dimensions.
        """
        if name not in self.tensors:
            raise CheckpointError(
                f"{self.path} lacks {name!r}: it is a checkpoint of another system"
            )
        shape = self.tensors[name].shape
        if len(shape) != dims:
            raise CheckpointError(
                f"{self.path}: {name!r} has shape {list(shape)}, not {dims} dimensions"
            )
        return tuple(shape)

    def count_blocks(self, prefix: str) -> int:
        """Number of blocks N, from the names `<prefix>0.` to `<prefix>N-1.`.

        Raises:
            CheckpointError: if there are none or one is missing.
        """
        pattern = re.compile(re.escape(prefix) + r"(\d{1,4})[./]")
        found = {int(match[1]) for match in map(pattern.match, self.tensors) if match}
        if missing := sorted(set(range(max(found, default=0) + 1)) - found):
            raise CheckpointError(
                f"{self.path} lacks {prefix}{missing[0]}: the model is incomplete"
            )
        return len(found)

    def heads(self, dim: int) -> int:
        """Attention heads of a model of width `dim`.

        Raises:
            CheckpointError: if the width is not a multiple of 64.
        """
        if dim % HEAD_WIDTH or not dim:
            raise CheckpointError(
                f"{self.path}: width {dim} is not a multiple of {HEAD_WIDTH} (a head)"
            )
        return dim // HEAD_WIDTH

    def fill(self, module: nn.Module, ignored: str = "$^") -> None:
        """Give every parameter of `module` the tensor of its name, in float32.

        Args:
            module: best built on the device "meta": its parameters are replaced.
            ignored: regular expression of names that the module does not need.

        Raises:
            CheckpointError: naming what is missing, unknown, of the wrong shape or not finite.
        """
        wanted = {name: value.shape for name, value in module.state_dict().items()}
        given = {
            name: tensor
            for name, tensor in self.tensors.items()
            if name in wanted or not re.match(ignored, name)
        }
        wrong = [
            f"{name} {list(tensor.shape)} instead of {list(wanted[name])}"
            for name, tensor in given.items()
            if name in wanted and tensor.shape != wanted[name]
        ]
        problems = {
            "lacks ": [name for name in wanted if name not in given],
            "has unknown ": [name for name in given if name not in wanted],
            "has shapes that do not fit: ": wrong,
        }
        if found := [text + _listed(names) for text, names in problems.items() if names]:
            raise CheckpointError(f"{self.path} does not fit this system: it {'; it '.join(found)}")
        values = {name: tensor.to(torch.float32, copy=True) for name, tensor in given.items()}
        if broken := [name for name, value in values.items() if not value.isfinite().all()]:
            raise CheckpointError(f"{self.path} has NaN or infinite weights: {_listed(broken)}")
        module.load_state_dict({n: v.contiguous() for n, v in values.items()}, assign=True)
        module.requires_grad_(False)


def state_in(content: Any, path: Path) -> Checkpoint:
    """A state dict that was read from a file.

    Raises:
        CheckpointError: if anything else is in it, or a tensor claims more than the file holds.
    """
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} contains no weights (a dict of tensors)")
    size = path.stat().st_size
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: {name!r} is a {type(tensor).__name__}, not a tensor")
        if tensor.numel() * tensor.element_size() > size:
            raise CheckpointError(f"{path}: {name!r} claims more values than the file holds")
    return Checkpoint(path, content)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _stand_in(name: str) -> type:
    """Make a new class for each name, so that no pickle can alter one that others use."""

    class StandIn:
        __slots__ = ()

        def __new__(cls, *_: Any, **__: Any) -> StandIn:
            return object.__new__(cls)

        def __init__(self, *_: Any, **__: Any) -> None: ...

        def __setstate__(self, _: Any) -> None: ...

    StandIn.__name__ = name
    return StandIn
