"""Checkpoints of a run: one safetensors file each, written whole or not at all.

A file holds the weights, AdamW's moments and the sums of the open log interval; its header holds
step, settings, corpus and a checksum. Batches follow from (seed, step), so no generator is kept.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hear_axlstm.pretrain.config import PretrainConfig

log = logging.getLogger(__name__)

FORMAT = "1"
KEPT = 2  # the last, and one before it in case the last is damaged
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

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors below a prefix, without it."""
        prefix = name + "."
        return {
            key.removeprefix(prefix): tensor
            for key, tensor in self.tensors.items()
            if key.startswith(prefix)
        }


def collect(
    model: nn.Module, optimizer: torch.optim.AdamW, interval: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Everything that the next step depends on, under the names of a checkpoint."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"interval.{name}": tensor for name, tensor in interval.items()}
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        tensors |= {f"optimizer.{key}.{name}": state[key] for key in _MOMENTS if key in state}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.AdamW) -> None:
    """Put a checkpoint's weights and moments back, on the devices of the parameters."""
    model.load_state_dict(checkpoint.part("model"))
    moments = {key: checkpoint.part(f"optimizer.{key}") for key in _MOMENTS}
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {
            key: tensors[name].to(parameter.device, copy=True)
            for key, tensors in moments.items()
            if name in tensors
        }


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint and drop all but the last two.

    Raises:
        CheckpointError: if it can't be written, e.g. for want of space; older ones stay.
    """
    path = folder / f"step-{checkpoint.step:08d}.safetensors"
    partial = path.with_suffix(".partial")
    header = {
        "format": FORMAT,
        "step": str(checkpoint.step),
        "config": json.dumps(checkpoint.config.to_dict()),
        "corpus": checkpoint.corpus,
        "crc32": _checksum(checkpoint.tensors),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(checkpoint.tensors), partial, metadata=header)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(
            f"can't write {path} ({error}): make room, then start again to resume"
        ) from error
    for old in list_checkpoints(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def load(path: Path) -> Checkpoint:
    """Read a checkpoint back.

    Raises:
        CheckpointError: if it is damaged or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["format"] != FORMAT:
            raise CheckpointError(f"{path} has format {header['format']}: start a new run")
        if header["crc32"] != _checksum(tensors):
            raise CheckpointError(f"{path} is damaged: its checksum does not match")
        config = PretrainConfig.from_dict(json.loads(header["config"]))
        return Checkpoint(int(header["step"]), config, header["corpus"], tensors)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def load_latest(folder: Path) -> Checkpoint | None:
    """The last checkpoint that is whole; None if the folder has none.

    Raises:
        CheckpointError: if there are some, but every one is damaged.
    """
    paths = list_checkpoints(folder)
    for path in reversed(paths):
        try:
            return load(path)
        except CheckpointError as error:
            log.warning("%s; trying the checkpoint before it", error)
    if paths:
        raise CheckpointError(
            f"no checkpoint in {folder} is usable: delete the folder to train from the start"
        )
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files, the earliest step first."""
    return sorted(folder.glob("step-*.safetensors"))


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 over names and values: catches damage that leaves the file readable."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(tensors[name].reshape(-1).numpy().tobytes(), crc)
    return f"{crc:08x}"
