"""A training checkpoint: one self-describing safetensors file, written atomically.

It contains the weights, the optimizers' moments and the metrics since the last log line; its header
contains step, settings, data, versions and a checksum. Batches and all other randomness are
functions of (seed, step), so that no generator state is needed.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hear_axlstm.audio.errors import may_pass
from hear_axlstm.files import replacing
from hear_axlstm.models.tensor_names import file_parameters

FORMAT = "2"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")  # of AdamW and Muon


class CheckpointError(RuntimeError):
    """Raised if a checkpoint can't be read or written; the message names the remedy."""


@dataclass(frozen=True)
class Checkpoint:
    """State of a run after `step` optimizer steps."""

    step: int
    settings: Mapping[str, Any]
    """Settings of the run, JSON-ready."""
    data_fingerprint: str
    tensors: Mapping[str, Tensor]
    """Tensors on the CPU; names start with model., optimizer., interval. or average."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """Further JSON-ready state: that of the monitor."""

    @property
    def is_finite(self) -> bool:
        """Whether all weights and moments are finite; a skipped step leaves them unchanged."""
        return all(bool(tensor.isfinite().all()) for tensor in self.tensors.values())

    def part(self, name: str) -> dict[str, Tensor]:
        """Tensors whose names start with a prefix, by name without the prefix."""
        return _part(self.tensors, name)


def collect(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    parts: Mapping[str, Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    """Copy all state that the next step depends on, under the names of a checkpoint.

    Args:
        model: its parameters and buffers are copied.
        optimizers: their moments are copied.
        parts: further tensors by prefix.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for prefix, part in parts.items():
        tensors |= {f"{prefix}.{name}": tensor for name, tensor in part.items()}
    for name, parameter in file_parameters(model):
        state = _owner(optimizers, parameter).state[parameter]
        tensors |= {f"optimizer.{key}.{name}": state[key] for key in _MOMENTS if key in state}
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }


def restore(
    tensors: Mapping[str, Tensor], model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    """Load the weights and moments that `collect` copied onto the parameters' devices."""
    model.load_state_dict(_part(tensors, "model"))
    moments = {key: _part(tensors, f"optimizer.{key}") for key in _MOMENTS}
    for name, parameter in file_parameters(model):
        _owner(optimizers, parameter).state[parameter] = {
            key: moment[name].to(parameter.device, copy=True)
            for key, moment in moments.items()
            if name in moment
        }


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; once this returns, it survives a power failure.

    Raises:
        CheckpointError: if it can't be written, for example on a full disk.
    """
    header = {
        "format": FORMAT,
        "step": str(checkpoint.step),
        "config": json.dumps(checkpoint.settings),
        "corpus": checkpoint.data_fingerprint,
        "state": json.dumps(checkpoint.state),
        "versions": f"hear_axlstm {version('hear_axlstm')}, torch {torch.__version__}",
    }
    header["crc32"] = _checksum(header, checkpoint.tensors)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            save_file(dict(checkpoint.tensors), partial, metadata=header)
        _sync_names(path.parent)
    except (OSError, SafetensorError) as error:
        reason = error.__cause__ or error  # the error of a full disk names a remedy itself
        raise CheckpointError(
            f"can't write {path} ({reason}): free some space, then run the command again to resume"
        ) from error


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: if it is damaged or has another format.
        OSError: if it may not be read, or not at present, for example because of a network disk.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["format"] != FORMAT:
            raise CheckpointError(f"{path} has format {header['format']}: start a new run")
        if header.pop("crc32") != _checksum(header, tensors):
            raise CheckpointError(f"{path} is damaged: its checksum does not match")
        settings, state = json.loads(header["config"]), json.loads(header.get("state", "{}"))
        return Checkpoint(int(header["step"]), settings, header["corpus"], tensors, state)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, PermissionError) or may_pass(error):
            raise
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = name + "."
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _owner(
    optimizers: Sequence[torch.optim.Optimizer], parameter: nn.Parameter
) -> torch.optim.Optimizer:
    """The optimizer that updates a parameter."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if any(parameter is other for other in group["params"]):
                return optimizer
    raise KeyError("a parameter belongs to no optimizer")


def _sync_names(folder: Path) -> None:
    """Flush the names in a folder to disk; Windows does not allow it."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _checksum(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of header, names, shapes and values, since a damaged file may still be readable."""
    crc = 0
    for item in sorted(header.items()):
        crc = zlib.crc32(repr(item).encode(), crc)
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(repr((name, tensor.dtype, tuple(tensor.shape))).encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"
