"""Learning rates over the steps of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Learning rate schedule: linear warm-up to the peak, then decay to zero.

    Without `cooldown` the rate follows a cosine from the end of the warm-up (paper section 3.2).
    With it the rate stays at the peak until the last `cooldown` steps and then falls as
    1 - sqrt(x) (warm-up, stable, decay: Hägele et al. 2024, arXiv:2405.18392); until then it does
    not depend on the number of steps, so the run can be extended.
    """

    steps: int
    warmup: int
    """Number of warm-up steps, fewer than `steps`."""
    cooldown: int | None = None
    """Number of cooldown steps; None for the cosine."""

    @property
    def stable_steps(self) -> int:
        """Number of initial steps that do not depend on the length of the run."""
        return 0 if self.cooldown is None else self.steps - self.cooldown

    def lr(self, step: int, peak: float) -> float:
        """Learning rate at a step, counted from 0, for a given peak."""
        if step < self.warmup:
            return peak * (step + 1) / self.warmup
        if self.cooldown is None:
            left = self.steps - self.warmup
            return peak * 0.5 * (1.0 + math.cos(math.pi * (step - self.warmup) / left))
        if step < self.stable_steps:
            return peak
        return peak * (1.0 - math.sqrt((step - self.stable_steps) / self.cooldown))
