"""Settings of probes and their search space, drawn as in heareval.

Source: PARAM_GRID and `task_predictions` in heareval 2021.1.3, predictions/task_predictions.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from sklearn.model_selection import ParameterGrid
from torch import Tensor, nn

from hearbench.tasks.description import own_grid

Grid = Literal["paper", "heareval"]
GRID_POINTS: dict[Grid, int] = {"paper": 2, "heareval": 8}
HEAREVAL_GRID: dict[str, list[Any]] = {
    "hidden_layers": [1, 2],
    "hidden_dim": [1024],
    "dropout": [0.1],
    "lr": [3.2e-3, 1e-3, 3.2e-4, 1e-4],
    "patience": [20],
    "max_epochs": [500],
    "check_val_every_n_epoch": [3],
    "batch_size": [1024],
    "hidden_norm": [nn.BatchNorm1d],
    "norm_after_activation": [False],
    "embedding_norm": [nn.Identity],
    "initialization": [nn.init.xavier_uniform_, nn.init.xavier_normal_],
    "optim": [torch.optim.Adam],
}
FIXED = ("hidden_norm", "norm_after_activation", "embedding_norm", "initialization", "optim")


@dataclass(frozen=True)
class Shape:
    """Settings that probes must share to be trained together."""

    hidden_layers: int
    hidden_dim: int
    lr: float
    batch_size: int
    max_epochs: int
    check_val_every_n_epoch: int
    patience: int
    """Checks without improvement before training stops."""


@dataclass(frozen=True)
class Point:
    """One setting of the grid."""

    shape: Shape
    dropout: float
    initialization: Callable[..., Tensor]
    conf: Mapping[str, Any]
    """All settings, by heareval's names."""


def paper_grid() -> dict[str, list[Any]]:
    """The AxLSTM authors' search space, where it differs from heareval's PARAM_GRID."""
    return {
        "hidden_layers": [1],
        "dropout": [0.1, 0.25],
        "lr": [1e-4],
        "initialization": [nn.init.xavier_normal_],
    }


def draw(grid: Grid, metadata: Mapping[str, Any], seed: int) -> list[Point]:
    """The grid points that heareval tries with this seed, in its order, which breaks ties."""
    space = {**HEAREVAL_GRID, **(paper_grid() if grid == "paper" else {}), **own_grid(metadata)}
    confs = list(ParameterGrid(space))
    random.Random(seed).shuffle(confs)
    return [_point(conf) for conf in confs[: GRID_POINTS[grid]]]


def _point(conf: dict[str, Any]) -> Point:
    shape = Shape(**{name: conf[name] for name in Shape.__dataclass_fields__})
    return Point(shape, conf["dropout"], conf["initialization"], conf)
