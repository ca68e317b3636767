"""Batches: which clips are held together, which windows of 2 s are encoded together; step times.

Every command and call takes its batches from here, by the one `Budget` of its device.
Shapes: W windows, T mel frames, F mel bins, J time steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as nnf

from hear_axlstm.audio.mel import frame_count
from hear_axlstm.config import ModelConfig

SPREAD = 20  # frames: windows that differ by no more are padded to one length and go together
T = TypeVar("T")


class Budget(NamedTuple):
    """How much is held and computed at once: bounds memory, whatever the number and lengths."""

    held_seconds: float
    """Audio of several clips that is decoded and waits."""
    frames: int
    """Mel frames that are encoded in one pass without gradients."""
    gradient_frames: int
    """Mel frames in one forward and backward pass."""

    @classmethod
    def of(cls, device: torch.device) -> Budget:
        """The budget of a kind of device."""
        return BUDGETS.get(device.type, BUDGETS["cpu"])


BUDGETS = {"cpu": Budget(300.0, 12_800, 1_600), "cuda": Budget(300.0, 51_200, 51_200)}


def groups(items: Iterable[T], size: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Consecutive items whose sizes add up to `most` or less; a larger one is alone."""
    group: list[T] = []
    held = 0
    for item in items:
        if group and held + size(item) > most:
            yield group
            group, held = [], 0
        group.append(item)
        held += size(item)
    if group:
        yield group


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
        """Number of time steps that are not all padding."""
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
    if batch:
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
    index = torch.arange(first, end, dtype=torch.float64, device="cpu")
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
    return (centers if len(centers) else torch.tensor([end_ms / 2], device="cpu")).float()
