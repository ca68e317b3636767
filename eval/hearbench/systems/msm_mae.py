"""Adapter for MSM-MAE: its authors' own HEAR module, called with one clip at a time.

MSM-MAE (Niizumi et al., "Masked Spectrogram Modeling using Masked Autoencoders for Learning
General-purpose Audio Representation", 2022) is under NTT's evaluation license, which allows no
derived code, so it is not reimplemented here. Install the authors' code and name their HEAR module
and checkpoint:

    hearbench run --systems msm_mae@THEIR_MODULE@80x208p16x16_0422/checkpoint-100.pth

Their code standardizes a spectrogram by mean and deviation of the whole batch, so an embedding
would depend on its neighbors. One clip at a time is reproducible, and equals their code at batch
size 1. Any other HEAR module can be run in this way, too.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from hearbench.systems.specs import HEAR_API


class OneByOne(nn.Module):
    """Another HEAR module's model, for one clip at a time."""

    def __init__(self, module: ModuleType, model: Any) -> None:
        super().__init__()
        self.module = module
        self.model = model
        self.sample_rate: int = model.sample_rate
        self.scene_embedding_size: int = model.scene_embedding_size
        self.timestamp_embedding_size: int = model.timestamp_embedding_size


def load_model(model_file_path: str = "") -> OneByOne:
    """Load a checkpoint with another HEAR module.

    Args:
        model_file_path: MODULE@CHECKPOINT, or MODULE for its default.

    Raises:
        ValueError: if no module is named, or it lacks a function of the HEAR API.
        ImportError: if it is not installed.
    """
    name, _, checkpoint = model_file_path.partition("@")
    if not name:
        raise ValueError("name the authors' HEAR module and checkpoint: msm_mae@MODULE@CHECKPOINT")
    try:
        module = import_module(name)
    except ImportError as error:
        raise ImportError(
            f"can't import {name!r} ({error}): install MSM-MAE's own code (`hearbench systems "
            "msm_mae` says from where) and give its HEAR module's name"
        ) from error
    if missing := [function for function in HEAR_API if not hasattr(module, function)]:
        raise ValueError(f"{name} is not a HEAR module: it lacks {', '.join(missing)}")
    return OneByOne(module, module.load_model(*([checkpoint] if checkpoint else [])))


@torch.no_grad()
def get_scene_embeddings(audio: Tensor, model: OneByOne) -> Tensor:
    """Waveform [B, n] -> embeddings [B, D]."""
    function = model.module.get_scene_embeddings
    return torch.cat([function(clip[None], model.model) for clip in audio])


@torch.no_grad()
def get_timestamp_embeddings(audio: Tensor, model: OneByOne) -> tuple[Tensor, Tensor]:
    """Waveform [B, n] -> embeddings [B, T, D] and times [B, T] in ms."""
    function = model.module.get_timestamp_embeddings
    pairs = [function(clip[None], model.model) for clip in audio]
    return torch.cat([steps for steps, _ in pairs]), torch.cat([times for _, times in pairs])
