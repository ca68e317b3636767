"""Training batches from a packed corpus, each a pure function of (seed, step).

Positions 0, 1, 2, ... walk through one fresh permutation of the clips after another, so every clip
comes once an epoch; step s takes positions [s B, (s + 1) B), also across the end of an epoch.
Nothing depends on how the work before went: that makes an interrupted run resume exactly.

Shapes: `B` clips, `T` mel frames of a clip, `W` frames of a crop, `F` mel bins.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hear_axlstm.data.corpus import Corpus
from hear_axlstm.mel import STD_FLOOR

HELD_OUT_SHARE = 0.05
HELD_OUT_CLIPS = 2048  # as many tell the loss to a fraction of a percent; more only cost time
FEWEST_TO_SPLIT = 40

_ORDER, _CROP, _MASK = range(3)  # independent random streams of one seed


class CropDataset:
    """Random crops of whole-clip standardized log-mel (paper section 3.2: 2 s of each clip).

    Args:
        corpus: the packed clips.
        clips: which of them to use, as positions in the corpus' index.
        window_frames: frames of a crop, W; a shorter clip is repeated in time.
        batch_size: clips of a batch, B.
        seed: fixes order, crops and masks.

    Raises:
        ValueError: if there are no clips.
    """

    def __init__(
        self,
        corpus: Corpus,
        clips: NDArray[np.int64],
        window_frames: int,
        batch_size: int,
        seed: int,
    ) -> None:
        if not len(clips):
            raise ValueError("no clips to train on: pack a folder with more audio")
        self.corpus = corpus
        self.clips = clips
        self.window_frames = window_frames
        self.batch_size = batch_size
        self.seed = seed
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)  # a batch can touch two

    def __len__(self) -> int:
        return len(self.clips)

    def epoch_at(self, step: int) -> float:
        """Epochs that are done before this step."""
        return step * self.batch_size / len(self)

    def steps(self, epochs: float) -> int:
        """Steps that come closest to this many epochs, at least one."""
        return max(1, round(epochs * len(self) / self.batch_size))

    def batch(self, step: int) -> Tensor:
        """The crops of a step, float32 [B, W, F]."""
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)
        crops, clips = zip(*(self._crop(*divmod(p, len(self))) for p in positions), strict=True)
        index, chosen = self.corpus.index, list(clips)
        mean, std = (
            torch.from_numpy(column[chosen])[:, None, None] for column in (index.mean, index.std)
        )
        return torch.from_numpy(np.stack(crops)).float().sub_(mean).div_(std + STD_FLOOR)

    def mask_generator(self, step: int) -> torch.Generator:
        """The source of randomness for the masks of a step; on the CPU, the same on any device."""
        state = np.random.SeedSequence([self.seed, _MASK, step]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0]))

    def _draw_epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Order of the clips, and where in each clip the crop starts as a share of the choice."""
        order = np.random.default_rng([self.seed, _ORDER, epoch]).permutation(self.clips)
        return order, np.random.default_rng([self.seed, _CROP, epoch]).random(len(order))

    def _crop(self, epoch: int, position: int) -> tuple[NDArray[np.float16], int]:
        """One crop as it is stored, [W, F], and the clip it is from."""
        order, starts = self._epoch(epoch)
        clip, width = int(order[position]), self.window_frames
        frames = self.corpus.clip(clip)
        if len(frames) < width:
            frames = np.tile(frames, (-(-width // len(frames)), 1))
        start = int(starts[position] * (len(frames) - width + 1))
        return frames[start : start + width], clip


def split_held_out(corpus: Corpus) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the clips to train on, and of those to watch the loss on.

    One clip in 20 is held out (none of fewer than 40 clips), chosen by a hash of its id: the same
    in every run, whatever the seed.
    """
    digests = [hashlib.sha256(clip_id.encode()).digest() for clip_id in corpus.index.id]
    order = np.array(sorted(range(len(corpus)), key=digests.__getitem__), dtype=np.int64)
    if len(order) < FEWEST_TO_SPLIT:
        return np.sort(order), order[:0]
    held_out = min(int(len(order) * HELD_OUT_SHARE), HELD_OUT_CLIPS)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
