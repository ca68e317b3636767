"""A checkpoint: one safetensors file that describes itself, written whole or not at all.

It holds the weights, AdamW's moments and the sums of the open log interval; its header holds step,
settings, corpus, versions and a checksum over all of it. Batches follow from (seed, step), and
nothing else is random, so no generator is kept.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hear_axlstm.pretrain.config import PretrainConfig

FORMAT = "2"
PARTIAL = ".partial"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class CheckpointError(RuntimeError):
    """A checkpoint that can't be used; the message names the remedy."""


@dataclass(frozen=True)
class Checkpoint:
    """A run after `step` optimizer steps."""

    step: int
    config: PretrainConfig
    corpus: str
    """Fingerprint of the packed data."""
    tensors: Mapping[str, Tensor]
    """On the CPU; names start with model., optimizer. or interval."""

    @property
    def is_finite(self) -> bool:
        """Whether the last step was a good one and left no infinite weight or moment."""
        bad_steps = self.tensors.get("interval.in_a_row")
        finite = all(bool(tensor.isfinite().all()) for tensor in self.tensors.values())
        return finite and not bad_steps

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors below a prefix, without it."""
        return _part(self.tensors, name)


def collect(
    model: nn.Module, optimizer: torch.optim.AdamW, interval: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A copy of everything that the next step depends on, under the names of a checkpoint."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"interval.{name}": tensor for name, tensor in interval.items()}
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        tensors |= {f"optimizer.{key}.{name}": state[key] for key in _MOMENTS if key in state}
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }


def restore(tensors: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.AdamW) -> None:
    """Put the weights and moments that `collect` gave back, on the devices of the parameters."""
    model.load_state_dict(_part(tensors, "model"))
    moments = {key: _part(tensors, f"optimizer.{key}") for key in _MOMENTS}
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {
            key: moment[name].to(parameter.device, copy=True)
            for key, moment in moments.items()
            if name in moment
        }


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; once this returns, it outlasts a power cut.

    Raises:
        CheckpointError: if it can't be written, e.g. for want of space.
    """
    partial = path.with_suffix(PARTIAL)
    header = {
        "format": FORMAT,
        "step": str(checkpoint.step),
        "config": json.dumps(checkpoint.config.to_dict()),
        "corpus": checkpoint.corpus,
        "versions": f"hear_axlstm {version('hear_axlstm')}, torch {torch.__version__}",
    }
    header["crc32"] = _checksum(header, checkpoint.tensors)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(checkpoint.tensors), partial, metadata=header)
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(
            f"can't write {path} ({error}): make room, then start again to resume"
        ) from error


def load(path: Path) -> Checkpoint:
    """Read a checkpoint back.

    Raises:
        CheckpointError: if it is damaged or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["format"] != FORMAT:
            raise CheckpointError(f"{path} has format {header['format']}: start a new run")
        if header.pop("crc32") != _checksum(header, tensors):
            raise CheckpointError(f"{path} is damaged: its checksum does not match")
        config = PretrainConfig.from_dict(json.loads(header["config"]))
        return Checkpoint(int(header["step"]), config, header["corpus"], tensors)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = name + "."
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _sync(path: Path) -> None:
    """Have the system put a file, or the names in a folder, on disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 over header, names, shapes and values: damage can leave a file readable."""
    crc = 0
    for item in sorted(header.items()):
        crc = zlib.crc32(repr(item).encode(), crc)
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(repr((name, tensor.dtype, tuple(tensor.shape))).encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"
