"""Pooling of a clip's time steps into its scene embedding.

Shapes: W windows, J time steps, D' width of a time step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from hear_axlstm.config import Pooling

SMALLEST_VARIANCE = 1e-12  # of a dimension over time, so that the gradient of its root is finite


def pool(steps_JD: Tensor, pooling: Pooling) -> Tensor:
    """Pool time steps ``[..., J, D']`` into ``[..., D']``, or ``[..., 2 D']`` for "mean_std"."""
    mean = steps_JD.mean(-2)
    if pooling == "mean":
        return mean
    variance = (steps_JD - mean.unsqueeze(-2)).square().mean(-2)
    return torch.cat([mean, _std(variance)], -1)


class WindowPooling:
    """`pool` for clips whose time steps arrive in batches of windows, in any order.

    Args:
        pooling: see `hear_axlstm.config.ModelConfig`.
    """

    def __init__(self, pooling: Pooling) -> None:
        self._has_std = pooling == "mean_std"
        self._windows: dict[int, list[tuple[int, Tensor]]] = defaultdict(list)

    def add(self, clips: Sequence[int], counts: Sequence[int], steps_WJD: Tensor) -> None:
        """Add windows ``[W, J, D']``: the clip and the number of valid time steps of each."""
        count_W1 = torch.tensor(counts, device=steps_WJD.device)[:, None]
        index_J = torch.arange(steps_WJD.shape[1], device=steps_WJD.device)
        inside_WJ1 = (index_J < count_W1)[..., None]
        moments = [(steps_WJD * inside_WJ1).sum(1)]
        if self._has_std:
            means_W1D = (moments[0] / count_W1)[:, None]
            moments.append(((steps_WJD - means_W1D) * inside_WJ1).square().sum(1))
        for clip, count, window in zip(clips, counts, torch.stack(moments, 1), strict=True):
            self._windows[clip].append((count, window))

    def scenes(self) -> Tensor:
        """Scene embeddings of the clips 0, 1, ... in this order."""
        return torch.stack([self._scene(self._windows[clip]) for clip in range(len(self._windows))])

    def _scene(self, windows: list[tuple[int, Tensor]]) -> Tensor:
        counts, moments = zip(*windows, strict=True)
        sums_WD, *squares = torch.stack(moments).unbind(1)
        mean_D = sums_WD.sum(0) / sum(counts)
        if not squares:
            return mean_D
        # of the steps around the mean of their window, and of these means
        count_W1 = sums_WD.new_tensor(counts)[:, None]
        between_WD = count_W1 * (sums_WD / count_W1 - mean_D).square()
        return torch.cat([mean_D, _std((squares[0] + between_WD).sum(0) / sum(counts))])


def _std(variance: Tensor) -> Tensor:
    return variance.clamp(min=SMALLEST_VARIANCE).sqrt()
