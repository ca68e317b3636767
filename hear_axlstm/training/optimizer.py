"""AdamW (paper section 3.2), and Muon for the matrices of the blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Group = dict[str, Any]
"""A parameter group of an optimizer; `peak` is its highest learning rate."""


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], peak: float, weight_decay: float
) -> list[Group]:
    """Split named parameters into matrices, which decay, and biases and 1-D ones, which don't.

    Args:
        parameters: parameters as from `Module.named_parameters`.
        peak: peak learning rate.
        weight_decay: weight decay of the first group.
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in parameters:
        one_dimensional = parameter.ndim <= 1 or name.endswith("bias")
        (spared if one_dimensional else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay, "lr": peak, "peak": peak},
        {"params": spared, "weight_decay": 0.0, "lr": peak, "peak": peak},
    ]


def adamw(groups: Sequence[Group], betas: tuple[float, float] = (0.9, 0.95)) -> torch.optim.AdamW:
    """Fused AdamW, the only variant that can skip a step on the device, see `step_unless`."""
    return torch.optim.AdamW(groups, betas=betas, fused=True)


def muon(groups: Sequence[Group]) -> torch.optim.Optimizer:
    """Muon (Jordan et al. 2024) with updates scaled to AdamW's, so that its rates apply.

    Raises:
        ValueError: for a PyTorch before 2.9, which has no Muon.
    """
    if not hasattr(torch.optim, "Muon"):
        raise ValueError("optimizer='muon' needs PyTorch 2.9 or newer: update it, or use 'adamw'")
    filled = [group for group in groups if group["params"]]
    return torch.optim.Muon(filled, adjust_lr_fn="match_rms_adamw")


def step_unless(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    """Take an optimizer step, which changes nothing if `bad`, a float32 scalar, is 1.

    Fused AdamW checks `bad` on the device, as with torch's GradScaler; others wait for it.
    """
    if optimizer.defaults.get("fused"):
        optimizer.found_inf = bad  # type: ignore[attr-defined]
        optimizer.step()
    elif not bad.item():
        optimizer.step()


def set_lr(optimizer: torch.optim.Optimizer, lr_of_peak: Callable[[float], float]) -> None:
    """Set the learning rate of each group to `lr_of_peak` of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = lr_of_peak(group["peak"])
