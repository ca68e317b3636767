"""Batches of a rank: crops and masks, made one step ahead.

Shapes: B clips of the global batch, of which this rank has some rows; W frames, F mel bins,
N patches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from hear_axlstm.config import ModelConfig
from hear_axlstm.data.dataset import CropDataset
from hear_axlstm.data.prefetch import prefetch
from hear_axlstm.masking import random_mask
from hear_axlstm.pretrain.distributed import World

Batch = tuple[Tensor, Tensor]  # log-mel [rows, W, F], mask [rows, N]


def batches(
    dataset: CropDataset, model: ModelConfig, world: World, first: int, end: int
) -> Iterator[Batch]:
    """This rank's share of the steps from `first` up to `end`; page-locked for a GPU."""

    def make(step: int) -> Batch:
        mel, mask = batch(dataset, model, world, step)
        return (mel.pin_memory(), mask.pin_memory()) if world.device.type == "cuda" else (mel, mask)

    return prefetch(make, first, end)


def batch(dataset: CropDataset, model: ModelConfig, world: World, step: int) -> Batch:
    """This rank's rows of the crops and masks of a step, which are the same for any world."""
    rows = world.rows(dataset.batch_size)
    patches = math.prod(model.grid)
    generator = dataset.mask_generator(step)
    mask = random_mask(dataset.batch_size, patches, model.mask_ratio, generator)
    return dataset.batch(step)[rows], mask[rows]
