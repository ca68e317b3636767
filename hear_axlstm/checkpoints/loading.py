"""Models from weights: the embedding model, or the initial model of a pretraining run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hear_axlstm.checkpoints.format import ENCODER, fill, read
from hear_axlstm.checkpoints.resolve import locate, manifest, random_preset
from hear_axlstm.config import ModelConfig, preset
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.models.pretraining import MaskedPatchModel

# Settings on which the tensors do not depend.
FREE = ("mask_ratio", "mask_keeps_position", "loss_on", "layout", "pooling")


@contextmanager
def building() -> Iterator[None]:
    """Build a model on the CPU, with normal tensors, and leave the random generator as it was."""
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]), torch.device("cpu"):
        yield


@building()
def load_embedder(spec: str, *, seed: int, **settings: Any) -> Embedder:
    """Load an embedding model; arguments as for `hear_axlstm.load_model`."""
    name = spec or manifest()["default"]
    changes = {setting: value for setting, value in settings.items() if value is not None}
    if drawn := random_preset(name):
        return _random_embedder(replace(preset(drawn), **changes), seed)
    return _embedder_from_file(locate(name), changes)


def _random_embedder(config: ModelConfig, seed: int) -> Embedder:
    torch.default_generator.manual_seed(seed)  # of the CPU alone
    return Embedder(config)


def _embedder_from_file(path: Path, changes: Mapping[str, Any]) -> Embedder:
    config, _, tensors = read(path)
    embedder = Embedder(replace(config, **changes))
    encoder = {k.removeprefix(ENCODER): t for k, t in tensors.items() if k.startswith(ENCODER)}
    fill(embedder.encoder, encoder, path)
    return embedder


def initialize(model: MaskedPatchModel, spec: str) -> None:
    """Initialize a pretraining model with existing weights of the same encoder.

    Raises:
        FileNotFoundError, ValueError: if they are missing, or belong to another encoder.
    """
    path = locate(spec)
    config, _, tensors = read(path)
    wanted = model.config.to_dict()
    differing = [
        f"{name}={value}"
        for name, value in config.to_dict().items()
        if name not in FREE and value != wanted[name]
    ]
    if differing:
        raise ValueError(
            f"the weights in {path} belong to another encoder: train with its settings "
            f"({', '.join(differing)}), or choose other weights"
        )
    fill(model, tensors, path)
