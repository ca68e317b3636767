"""Clips of any length in pieces of equal size, and many pieces at a time within bounded memory.

Shapes: B clips, n samples, T frames, C chunks of a clip.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

TOKENS_AT_ONCE = 16_384  # some 500 MB inside a block of width 768


def as_batch(audio: Tensor) -> Tensor:
    """Checked waveforms [B, n] in float32.

    Raises:
        ValueError: for another number of dimensions or no sample.
    """
    if audio.dim() != 2 or 0 in audio.shape:
        raise ValueError(
            f"audio has shape {list(audio.shape)}: give [clips, samples], at least one of each"
        )
    return audio.float()


def in_chunks(frames_BTF: Tensor, size: int) -> Tensor:
    """Frames [B, T, F] -> chunks [B, C, size, F], the last one filled up with zeros."""
    filling = -frames_BTF.shape[1] % size
    return F.pad(frames_BTF, (0, 0, 0, filling)).unflatten(1, (-1, size))


def reflected_to(frames_BTF: Tensor, multiple: int) -> Tensor:
    """Frames [B, T, F], going back and forth at the end up to a multiple of frames.

    It is numpy's "reflect", which also fills more than there is; torch's refuses to.
    """
    count = frames_BTF.shape[1]
    index = torch.arange(count + -count % multiple, device=frames_BTF.device)
    index = index % max(1, 2 * count - 2)
    return frames_BTF[:, torch.minimum(index, 2 * count - 2 - index)]


def in_batches(function: Callable[[Tensor], Tensor], items: Tensor, at_once: int) -> Tensor:
    """`function` of items [B, C, ...], called with [b, ...] of all clips together: [B, C, ...].

    Args:
        function: of a tensor [b, ...]; its result begins with b, too.
        items: may be a view of overlapping pieces: only `at_once` are copied at a time.
        at_once: the most items in one call.
    """
    clips, chunks = items.shape[:2]
    index = torch.arange(clips * chunks, device=items.device)
    parts = [
        function(items[i // chunks, i % chunks]) for i in index.split(max(1, at_once))
    ]
    return torch.cat(parts).unflatten(0, (clips, chunks))
