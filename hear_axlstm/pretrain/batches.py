"""A rank's batches of crops and masks, prepared one step ahead.

Shapes: B clips of the global batch, of which this rank has some rows; W frames, F mel bins,
N patches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from hear_axlstm.ahead import prefetch
from hear_axlstm.config import ModelConfig
from hear_axlstm.data.dataset import CropDataset
from hear_axlstm.training.distributed import DistContext

CropBatch = tuple[Tensor, Tensor]
"""Log-mel ``[rows, W, F]`` and mask ``[rows, N]``."""


class MaskedCrops:
    """Batches of masked crops, for a `Trainer`.

    Args:
        dataset: the crops and masks.
        model: settings of the model, for the masks.
        context: the rank whose rows are returned.
    """

    def __init__(self, dataset: CropDataset, model: ModelConfig, context: DistContext) -> None:
        self.dataset, self.model, self.context = dataset, model, context

    def epoch_at(self, step: int) -> float:
        """Number of epochs completed before a step."""
        return self.dataset.epoch_at(step)

    def batches(self, first: int, end: int) -> Iterator[CropBatch]:
        """This rank's rows of the steps `first` <= step < `end`, page-locked for a GPU."""
        return prefetch(self.batch, first, end)

    def batch(self, step: int) -> CropBatch:
        """This rank's rows of a step; all rows together don't depend on the number of ranks."""
        model, rank, size = self.model, self.context.rank, self.context.size
        mask = self.dataset.masks(step, math.prod(model.grid), model.mask_ratio, rank, size)
        pinned = mask.pin_memory() if self.context.device.type == "cuda" else mask
        return self.dataset.batch(step, rank, size), pinned
