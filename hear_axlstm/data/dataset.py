"""Training batches from a packed corpus, each a pure function of (seed, step).

Positions 0, 1, 2, ... run through a new permutation of the clips in each epoch, so that every clip
is drawn once per epoch, or as often as `balance.draw` says; step s uses positions [s B, (s + 1) B),
even across the end of an epoch, and each rank takes its share of them. Batches don't depend on
earlier steps or on the number of ranks, so that an interrupted run resumes exactly.

Shapes: `B` clips, `T` mel frames of a clip, `W` frames of a crop, `F` mel bins, `N` patches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hear_axlstm.audio.mel import STD_FLOOR
from hear_axlstm.data.balance import draw
from hear_axlstm.data.corpus import FRAME_DTYPE, Corpus, shard_path
from hear_axlstm.models.patch_embed import random_mask

VALIDATION_SHARE = 0.05
VALIDATION_CLIPS = 2048  # enough to estimate the loss to a fraction of a percent
FEWEST_TO_SPLIT = 40
VALUES_PER_PASS = 32_000  # few enough for torch to use only one thread
RESIDENT_SHARE = 0.25  # of a device's free memory

CPU = torch.device("cpu")

_ORDER, _CROP, _MASK, _DRAW, _MIX = range(5)  # independent random streams of one seed


class CropDataset:
    """Random crops of log-mel standardized per clip (paper section 3.2: 2 s of each clip).

    Frames are read from the memory-mapped shards; processes share them through the page cache.

    Args:
        corpus: the packed clips.
        clips: clips to use, as positions in the corpus' index.
        window_frames: frames per crop, W; a shorter clip is repeated in time.
        batch_size: clips per batch over all ranks, B.
        seed: seed of order, crops and masks.
        device: device of the training; for a GPU, batches are made in page-locked memory.
        draws: expected draws of each clip in an epoch, which sum to the number of clips; by default
            one each.
        mix: maximum share of a second crop mixed into each.

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
        device: torch.device = CPU,
        draws: NDArray[np.float64] | None = None,
        mix: float = 0.0,
    ) -> None:
        if not len(clips):
            raise ValueError("no clips to train on: pack a folder with more audio")
        self.corpus = corpus
        self.clips = clips
        self.window_frames = window_frames
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.draws, self.mix = draws, mix
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)  # a batch can touch two

    def __len__(self) -> int:
        return len(self.clips)

    def epoch_at(self, step: int) -> float:
        """Number of epochs completed before this step."""
        return step * self.batch_size / len(self)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Tensor:
        """Return a rank's crops of a step, float32 [B / world_size, W, F]."""
        rows = share(self.batch_size, rank, world_size)
        positions = np.arange(rows.start, rows.stop) + step * self.batch_size
        clips, starts = self._crops(positions)
        crops = self._read(clips, starts)
        return crops if not self.mix else self._mixed(crops, clips, step, rows)

    def _mixed(self, crops: Tensor, clips: NDArray[np.int64], step: int, rows: slice) -> Tensor:
        """Mix a random share of another crop of the batch into each, on the scale of the first.

        Both are mixed by their energies, as sounds would be (log-mixup-exp: Niizumi et al. 2021,
        arXiv:2103.06695), as if they were equally loud.
        """
        random = np.random.default_rng([self.seed, _MIX, step])
        partners = random.permutation(self.batch_size)[rows] + step * self.batch_size
        others = self._read(*self._crops(partners))
        share = random.random(self.batch_size)[rows] * self.mix
        weight = torch.from_numpy(share).float().to(crops.device)[:, None, None]
        scale = _statistics(self.corpus, clips)[1].to(crops.device)
        crops.mul_(scale).add_(torch.log1p(-weight))
        others.mul_(scale).add_(weight.log())
        return torch.logaddexp(crops, others, out=crops).div_(scale)

    def masks(
        self, step: int, patches: int, ratio: float, rank: int = 0, world_size: int = 1
    ) -> Tensor:
        """Return a rank's masks of a step, bool [B / world_size, N], on the CPU.

        Args:
            step: step of the run.
            patches: patches per crop, N.
            ratio: share of the patches to mask.
            rank: the rank.
            world_size: number of ranks.
        """
        state = np.random.SeedSequence([self.seed, _MASK, step]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0]))
        masks = random_mask(self.batch_size, patches, ratio, generator)
        return masks[share(self.batch_size, rank, world_size)]

    def _draw_epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Draw the order of the clips, and the relative start of the crop in each clip."""
        clips = self.clips
        if self.draws is not None:
            clips = draw(clips, self.draws, np.random.default_rng([self.seed, _DRAW, epoch]))
        order = np.random.default_rng([self.seed, _ORDER, epoch]).permutation(clips)
        return order, np.random.default_rng([self.seed, _CROP, epoch]).random(len(order))

    def _crops(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Clips at these positions, and the first frame of each crop in its repeated clip."""
        epochs, places = np.divmod(positions, len(self))
        clips, shares = np.empty(len(positions), np.int64), np.empty(len(positions))
        for epoch in np.unique(epochs):
            own = epochs == epoch
            order, drawn = self._epoch(int(epoch))
            clips[own], shares[own] = order[places[own]], drawn[places[own]]
        frames, width = self.corpus.index.frames[clips], self.window_frames
        repeated = np.where(frames < width, frames * -(-width // frames), frames)
        return clips, (shares * (repeated - width + 1)).astype(np.int64)

    def _read(self, clips: NDArray[np.int64], starts: NDArray[np.int64]) -> Tensor:
        """Read standardized crops, [B, W, F], in passes so that each value is fetched once."""
        width, bins = self.window_frames, self.corpus.mel.n_mels
        mean, scale = _statistics(self.corpus, clips)
        size = max(1, VALUES_PER_PASS // (width * bins))
        crops = np.empty((size, width, bins), FRAME_DTYPE)
        pin_memory = self.device.type == "cuda"
        batch = torch.empty(
            len(clips), width, bins, dtype=torch.float32, device="cpu", pin_memory=pin_memory
        )
        stored = self._stored(clips, starts)
        for first in range(0, len(clips), size):
            part = slice(first, min(first + size, len(clips)))
            rows = part.stop - part.start
            for row in range(rows):
                crops[row] = next(stored)
            torch.sub(torch.from_numpy(crops[:rows]), mean[part], out=batch[part])
            batch[part].div_(scale[part])
        return batch

    def _stored(
        self, clips: NDArray[np.int64], starts: NDArray[np.int64]
    ) -> Iterator[NDArray[np.float16]]:
        """Yield stored crops, [W, F]: one slice each, unless the clip is shorter."""
        index, width = self.corpus.index, self.window_frames
        columns = (index.shard[clips], index.offset[clips], index.frames[clips], starts)
        rows = list(zip(*(column.tolist() for column in columns), strict=True))
        for shard, offset, length, start in rows:
            whole = length < width
            self.corpus.will_need(shard, offset + start * (not whole), length if whole else width)
        for shard, offset, length, start in rows:
            frames = self.corpus.shard(shard)
            if length < width:
                yield frames[offset + np.arange(start, start + width) % length]
            else:
                yield frames[offset + start : offset + start + width]


class ResidentCropDataset(CropDataset):
    """`CropDataset` with all frames on the device, as one float16 tensor.

    Uses as much device memory as the pack uses disk space. Arguments as for `CropDataset`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        corpus, bins = self.corpus, self.corpus.mel.n_mels
        sizes = corpus.shard_sizes()
        self._first = sizes.cumsum() - sizes  # frames before each shard
        self._frames = torch.empty(int(sizes.sum()), bins, dtype=torch.float16, device=self.device)
        for shard in np.flatnonzero(sizes).tolist():
            values = np.fromfile(shard_path(corpus.folder, shard), FRAME_DTYPE)
            frames = torch.from_numpy(values).view(-1, bins)
            self._frames[self._first[shard] :][: len(frames)] = frames.to(self.device)

    def _read(self, clips: NDArray[np.int64], starts: NDArray[np.int64]) -> Tensor:
        """Standardized crops on the device, [B, W, F]."""
        index, device = self.corpus.index, self.device
        first = torch.from_numpy(self._first[index.shard[clips]] + index.offset[clips])
        columns = (first, torch.from_numpy(starts), torch.from_numpy(index.frames[clips]))
        first, start, frames = (column.to(device)[:, None] for column in columns)
        steps = torch.arange(self.window_frames, device=device)
        crops = self._frames[first + (start + steps) % frames]
        mean, scale = _statistics(self.corpus, clips)
        return crops.float().sub_(mean.to(device)).div_(scale.to(device))


def dataset_class(corpus: Corpus, device: torch.device) -> type[CropDataset]:
    """The kind of dataset for `device`: resident there if a quarter of its memory is enough.

    Only on CUDA; on a CPU the page cache has the same effect.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        size = int(corpus.index.frames.sum()) * corpus.mel.n_mels * FRAME_DTYPE.itemsize
        if size <= RESIDENT_SHARE * free:
            return ResidentCropDataset
    return CropDataset


def share(rows: int, rank: int, world_size: int) -> slice:
    """A rank's rows of a batch; sizes differ by at most one."""
    return slice(rank * rows // world_size, (rank + 1) * rows // world_size)


def split_validation(corpus: Corpus) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the training clips and of the validation clips.

    One clip in 20, at most 2,048, is held out (none of fewer than 40 clips), chosen by a hash of
    its id, so that the split does not depend on the seed.
    """
    digests = b"".join(hashlib.sha256(clip_id).digest() for clip_id in corpus.index.ids())
    order = np.frombuffer(digests, "S32").argsort(kind="stable")
    if len(order) < FEWEST_TO_SPLIT:
        return np.sort(order), order[:0]
    validation = min(int(len(order) * VALIDATION_SHARE), VALIDATION_CLIPS)
    return np.sort(order[validation:]), np.sort(order[:validation])


def _statistics(corpus: Corpus, clips: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each clip, [B, 1, 1]."""
    mean, std = (
        torch.from_numpy(column[clips])[:, None, None]
        for column in (corpus.index.mean, corpus.index.std)
    )
    return mean, std + STD_FLOOR
