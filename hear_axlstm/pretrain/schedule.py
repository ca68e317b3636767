"""The learning rate schedule of a pretraining run."""

from __future__ import annotations

from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.training.schedule import Schedule


def make_schedule(config: PretrainConfig, clips: int) -> Schedule:
    """Make the learning rate schedule of a run on a number of clips."""
    steps = config.steps(clips)
    warmup = min(config.steps(clips, config.warmup), steps - 1)
    if config.schedule == "cosine":
        return Schedule(steps, warmup)
    return Schedule(steps, warmup, max(1, min(round(config.cooldown * steps), steps - warmup)))
