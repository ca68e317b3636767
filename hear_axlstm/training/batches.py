"""Batches of a rank: crops and masks, made one step ahead.

Shapes: B clips of the global batch, of which this rank has some rows; W frames, F mel bins,
N patches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from hear_axlstm.audio.loader import prefetch
from hear_axlstm.config import ModelConfig
from hear_axlstm.data.dataset import CropDataset
from hear_axlstm.training.distributed import DistContext

Batch = tuple[Tensor, Tensor]  # log-mel [rows, W, F], mask [rows, N]


def batches(
    dataset: CropDataset, model: ModelConfig, context: DistContext, first: int, end: int
) -> Iterator[Batch]:
    """This rank's share of the steps from `first` up to `end`, page-locked for a GPU."""
    return prefetch(lambda step: batch(dataset, model, context, step), first, end)


def batch(dataset: CropDataset, model: ModelConfig, context: DistContext, step: int) -> Batch:
    """This rank's rows of the crops and masks of a step; the whole does not depend on the ranks."""
    ranks = context.rank, context.size
    mask = dataset.masks(step, math.prod(model.grid), model.mask_ratio, *ranks)
    pinned = mask.pin_memory() if context.device.type == "cuda" else mask
    return dataset.batch(step, *ranks), pinned
