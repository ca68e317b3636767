"""Weights of a pretraining that has not finished, from its checkpoints.

Lets a run be evaluated while it trains, and its milestones compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hear_axlstm.config import ModelConfig
from hear_axlstm.training.checkpoint_manager import list_checkpoints
from hear_axlstm.training.checkpoints import CheckpointError, load
from hear_axlstm.training.resume import CHECKPOINTS


def is_training_checkpoint(header: Mapping[str, str]) -> bool:
    """Whether a safetensors file with this header contains the state of a training."""
    return {"step", "config", "crc32"} <= header.keys()


def read_training_checkpoint(path: Path) -> tuple[ModelConfig, dict[str, Any], dict[str, Tensor]]:
    """Read settings, facts and weights: the average of the weights if the run has one.

    Raises:
        ValueError: if it is damaged, or of a fine-tuning.
    """
    try:
        checkpoint = load(path)
    except CheckpointError as error:
        raise ValueError(f"{error}: use another checkpoint of the run") from error
    model = checkpoint.settings.get("model")
    if not isinstance(model, Mapping):
        raise ValueError(f"{path} is not the checkpoint of a pretraining: use the finished model")
    tensors = checkpoint.part("model") | checkpoint.part("average")
    return ModelConfig.from_dict(dict(model)), {"steps": checkpoint.step}, tensors


def newest_of_run(run: Path) -> Path | None:
    """The newest checkpoint of a pretraining's folder, or None."""
    found = list_checkpoints(run / CHECKPOINTS)
    return found[-1] if found else None
