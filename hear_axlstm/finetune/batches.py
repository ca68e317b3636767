"""Batches of decoded training clips, prepared one step ahead.

Shapes: n samples or clips, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hear_axlstm.ahead import prefetch
from hear_axlstm.finetune.config import FinetuneConfig
from hear_axlstm.finetune.dataset import Dataset
from hear_axlstm.training.step import Batch

BATCH_SIZE = 16


class ClipBatches:
    """Batches of decoded clips and their targets, each a function of seed and step.

    Batches follow one random order of the clips per epoch, even across the end of an epoch.

    Args:
        dataset: its training clips are used.
        config: batch size, crops and seed.
        sample_rate: sample rate of the decoded clips.
    """

    def __init__(self, dataset: Dataset, config: FinetuneConfig, sample_rate: int) -> None:
        self.clips, self.targets = dataset.splits["train"], dataset.targets("train")
        self.batch_size = min(config.batch_size or BATCH_SIZE, len(self.clips))
        self.longest = max(1, round(config.crop_seconds * sample_rate))
        self.seed, self.sample_rate = config.seed, sample_rate
        self._order = lru_cache(maxsize=2)(self._draw_order)  # a batch can span two epochs

    def epoch_at(self, step: int) -> float:
        """Number of epochs completed before a step."""
        return step * self.batch_size / len(self.clips)

    def batches(self, first: int, end: int) -> Iterator[Batch]:
        """Batches of the steps `first` <= step < `end`, prepared one step ahead.

        Seeds PyTorch's generators for each step, so that dropout does not depend on earlier steps.
        """
        for step, batch in enumerate(prefetch(self.batch, first, end), start=first):
            (seed,) = np.random.SeedSequence([self.seed, 2, step]).generate_state(1)
            torch.manual_seed(int(seed))
            yield batch

    def batch(self, step: int) -> Batch:
        """Samples ``[n]`` and targets of a step; long clips are cropped at random."""
        first = step * self.batch_size
        places = (divmod(p, len(self.clips)) for p in range(first, first + self.batch_size))
        rows = [int(self._order(epoch)[place]) for epoch, place in places]
        draw = np.random.default_rng([self.seed, 1, step])
        clips = [torch.from_numpy(self.clips[row].decode(self.sample_rate)) for row in rows]
        return [self._crop(clip, draw) for clip in clips], self.targets[rows]

    def _draw_order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.clips))

    def _crop(self, samples: Tensor, draw: np.random.Generator) -> Tensor:
        first = int(draw.integers(max(0, len(samples) - self.longest) + 1))
        return samples[first : first + self.longest]
