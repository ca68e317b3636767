"""Batching of clips and 2 s windows, and the times of steps.

Every command and call forms its batches here, according to the `Budget` of its device.
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

SPREAD = 20  # frames; windows that differ by no more are padded to one length and batched


class Budget(NamedTuple):
    """Amount of audio processed at once; bounds memory for any number and length of clips."""

    held_seconds: float
    """Decoded audio that waits, over several clips."""
    frames: int
    """Mel frames in one forward pass without gradients."""
    gradient_frames: int
    """Mel frames in one forward and backward pass."""

    @classmethod
    def of(cls, device: torch.device) -> Budget:
        """Return the budget for a type of device."""
        return BUDGETS.get(device.type, BUDGETS["cpu"])

    def held_samples(self, sample_rate: int) -> int:
        """`held_seconds` in samples."""
        return round(self.held_seconds * sample_rate)


BUDGETS = {"cpu": Budget(300.0, 12_800, 1_600), "cuda": Budget(300.0, 51_200, 51_200)}


class Window(NamedTuple):
    """Up to 2 s of one clip."""

    clip: int
    start: int
    """First frame inside the clip."""
    frames: int
    """Number of frames."""
    padded: int
    """Number of frames with the padding that the encoder needs."""

    def steps(self, patch_frames: int) -> int:
        """Number of time steps that are not entirely padding."""
        return -(-self.frames // patch_frames)


def batches(
    clip_frames: Sequence[int], width: int, multiple: int, budget: int
) -> Iterator[list[Window]]:
    """Cut clips into windows, and batch windows of similar length.

    The windows of each clip are in chronological order.

    Args:
        clip_frames: T of each clip.
        width: frames in a full window.
        multiple: the last window of a clip is padded to a multiple of this number of frames.
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
    if batch:
        yield batch


def cut(log_mels_TF: Sequence[Tensor], batch: Sequence[Window]) -> Tensor:
    """Cut the frames of a batch of windows, zero-padded to the longest: ``[W, T, F]``."""
    longest = batch[0].padded
    parts = [log_mels_TF[w.clip][w.start : w.start + w.frames] for w in batch]
    short = [longest - len(part) for part in parts]
    parts = [nnf.pad(p, (0, 0, 0, n)) if n else p for p, n in zip(parts, short, strict=True)]
    return torch.stack(parts)


def step_centers(first: int, end: int, config: ModelConfig) -> Tensor:
    """Centers in ms ``[J]`` of the time steps `first` <= step < `end`, over their mel frames.

    float64, so that they don't drift.
    """
    hop_ms = 1000.0 * config.mel.hop_length / config.mel.sample_rate
    index = torch.arange(first, end, dtype=torch.float64, device="cpu")
    return (index * config.patch[0] + (config.patch[0] - 1) / 2) * hop_ms


def step_times(samples: int, config: ModelConfig) -> Tensor:
    """Times of a clip's steps in ms, float32 ``[J]``: their centers.

    A last step whose center is past the end of the clip is dropped, unless it is the only one:
    then its time is the middle of the clip.
    """
    end_ms = 1000.0 * samples / config.mel.sample_rate
    steps = -(-frame_count(samples, config.mel) // config.patch[0])
    centers = step_centers(0, steps, config)
    centers = centers[centers <= end_ms]
    return (centers if len(centers) else torch.tensor([end_ms / 2], device="cpu")).float()
