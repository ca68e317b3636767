"""Weights of an unfinished pretraining run, from its checkpoints.

This allows a run to be evaluated while it trains, and its milestones to be compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hear_axlstm.config import ModelConfig
from hear_axlstm.training.checkpoint_manager import list_checkpoints
from hear_axlstm.training.checkpoints import CheckpointError, load
from hear_axlstm.training.resume import CHECKPOINTS

WEIGHTS = "model."  # prefix of the names of the weights


def is_training_checkpoint(header: Mapping[str, str]) -> bool:
    """Whether a safetensors file with this header contains the state of a training run."""
    return {"step", "config", "crc32"} <= header.keys()


def training_settings(header: Mapping[str, str], path: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The model's settings and facts about the training, from the header of a checkpoint.

    Raises:
        ValueError: if the header is damaged, or belongs to a fine-tuning run.
    """
    try:
        model = json.loads(header["config"]).get("model")
        if isinstance(model, Mapping):
            return ModelConfig.from_dict(dict(model)), {"steps": int(header["step"])}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): use another checkpoint") from error
    raise ValueError(f"{path} is not a checkpoint of a pretraining run: use the finished model")


def training_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint: their average if the run has one.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        checkpoint = load(path)
    except CheckpointError as error:
        raise ValueError(f"{error}: use another checkpoint of the run") from error
    return checkpoint.part("model") | checkpoint.part("average")


def newest_of_run(run: Path) -> Path | None:
    """The newest checkpoint in the folder of a pretraining run, or None."""
    found = list_checkpoints(run / CHECKPOINTS)
    return found[-1] if found else None
