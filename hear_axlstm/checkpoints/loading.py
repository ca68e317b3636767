"""Weights into models: the embedding model, or the start of a pretraining."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch

from hear_axlstm.checkpoints.format import fill, read
from hear_axlstm.checkpoints.resolve import locate, manifest
from hear_axlstm.config import PRESETS, Layout, preset
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.models.pretraining import MaskedPatchModel

log = logging.getLogger(__name__)

# Settings that no tensor of the encoder depends on.
FREE = ("mask_ratio", "mask_keeps_position", "loss_on", "layout")
ENCODER = "encoder."  # what the embedder takes of a pretraining model's tensors


def load_embedder(
    spec: str, *, pretrained: bool = True, seed: int = 0, layout: Layout | None = None
) -> Embedder:
    """The embedding model that `hear_axlstm.load_model` returns; see there."""
    shipped = manifest()
    name = spec or shipped["default"]
    if pretrained and (name not in PRESETS or name in shipped["weights"]):
        return _embedder_from_file(locate(name), layout)
    if name not in PRESETS:
        raise ValueError(f"pretrained=False needs a preset's name, not {spec!r}")
    if pretrained:
        log.warning(
            "no weights ship for %s: it starts from random ones (seed %d). Pretrain it, or pass "
            "the path of its weights.",
            name,
            seed,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Embedder(replace(preset(name), layout=layout or preset(name).layout))


def _embedder_from_file(path: Path, layout: Layout | None) -> Embedder:
    config, _, tensors = read(path)
    embedder = Embedder(replace(config, layout=layout or config.layout))
    encoder = {k.removeprefix(ENCODER): t for k, t in tensors.items() if k.startswith(ENCODER)}
    fill(embedder.encoder, encoder, path)
    return embedder


def initialize(model: MaskedPatchModel, spec: str) -> None:
    """Start a pretraining model from existing weights of the same encoder.

    Raises:
        FileNotFoundError, ValueError: if there are none, or they belong to another encoder.
    """
    path = locate(spec)
    config, _, tensors = read(path)
    free = {name: getattr(model.config, name) for name in FREE}
    if replace(config, **free) != model.config:
        raise ValueError(
            f"the weights in {path} are of another encoder, {config}: use its settings"
        )
    fill(model, tensors, path)
