"""Clips of any lengths as windows of 2 s, in batches that pad little; and when a time step is.

Shapes: W windows, T mel frames, F mel bins, J time steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as nnf

from hear_axlstm.audio.mel import frame_count
from hear_axlstm.config import ModelConfig

SPREAD = 20  # frames: windows that differ by no more are padded to one length and go together


class Window(NamedTuple):
    """Up to 2 s of one clip."""

    clip: int
    start: int
    """First frame inside the clip."""
    frames: int
    """Its own."""
    padded: int
    """Its own and the padding that it needs."""

    def steps(self, patch_frames: int) -> int:
        """Time steps that are not all padding."""
        return -(-self.frames // patch_frames)


def batches(
    clip_frames: Sequence[int], width: int, multiple: int, budget: int
) -> Iterator[list[Window]]:
    """Cut clips into windows, and put windows of about one length together.

    The windows of one clip come in the order of time.

    Args:
        clip_frames: T of each clip.
        width: frames of a full window.
        multiple: of frames that the last window of a clip is padded to.
        budget: frames in a batch; a single window may have more.
    """
    windows = [
        Window(clip, start, own, own + -own % multiple)
        for clip, frames in enumerate(clip_frames)
        for start in range(0, frames, width)
        for own in (min(width, frames - start),)
    ]
    windows.sort(key=lambda window: -window.padded)
    batch: list[Window] = []
    for window in windows:
        longest = batch[0].padded if batch else 0
        if batch and (window.padded < longest - SPREAD or (len(batch) + 1) * longest > budget):
            yield batch
            batch = []
        batch.append(window)
    yield batch


def cut(log_mels_TF: Sequence[Tensor], batch: Sequence[Window]) -> Tensor:
    """The frames of a batch of windows, padded by zeros to its longest: ``[W, T, F]``."""
    longest = batch[0].padded
    parts = [log_mels_TF[w.clip][w.start : w.start + w.frames] for w in batch]
    short = [longest - len(part) for part in parts]
    parts = [nnf.pad(p, (0, 0, 0, n)) if n else p for p, n in zip(parts, short, strict=True)]
    return torch.stack(parts)


def step_centers(first: int, end: int, config: ModelConfig) -> Tensor:
    """The centers of the time steps `first` <= step < `end`, each of its mel frames, in ms ``[J]``.

    float64, so that they don't drift.
    """
    hop_ms = 1000.0 * config.mel.hop_length / config.mel.sample_rate
    index = torch.arange(first, end, dtype=torch.float64)
    return (index * config.patch[0] + (config.patch[0] - 1) / 2) * hop_ms


def step_times(samples: int, config: ModelConfig) -> Tensor:
    """The times of a clip's steps in ms, float32 ``[J]``: their centers.

    A last step whose center lies past the end of the clip is dropped, unless it is the only one:
    then it is placed in the clip's middle.
    """
    end_ms = 1000.0 * samples / config.mel.sample_rate
    steps = -(-frame_count(samples, config.mel) // config.patch[0])
    centers = step_centers(0, steps, config)
    centers = centers[centers <= end_ms]
    return (centers if len(centers) else torch.tensor([end_ms / 2])).float()
