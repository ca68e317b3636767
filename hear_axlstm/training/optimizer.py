"""AdamW and its learning rate (paper section 3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hear_axlstm.pretrain.config import PretrainConfig


def adamw(model: nn.Module, config: PretrainConfig) -> torch.optim.AdamW:
    """AdamW that spares biases and other 1-D parameters from weight decay.

    Fused, because only the fused step can be skipped on the device, see `skip_if`.
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        one_dimensional = parameter.ndim <= 1 or name.endswith("bias")
        (spared if one_dimensional else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.peak_lr, betas=config.betas, fused=True)


def skip_if(optimizer: torch.optim.AdamW, bad: Tensor) -> None:
    """Let the next step change nothing where `bad`, a float32 scalar, is 1.

    This is how torch's GradScaler speaks to a fused optimizer; the host need not know `bad`.
    """
    optimizer.found_inf = bad  # type: ignore[attr-defined]


def learning_rate(step: int, total: int, warmup: int, peak: float) -> float:
    """The rate of a step, counted from 0: linear from peak / warmup to peak, then cosine to 0.

    Args:
        step: the step, 0 <= step < total.
        total: steps of the run.
        warmup: steps of the linear rise, below `total`.
        peak: the highest rate.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` in all groups from now on."""
    for group in optimizer.param_groups:
        group["lr"] = rate
