"""Cutting of clips into chunks of equal size, and batches of chunks within bounded memory.

Shapes: B clips, n samples, T frames, C chunks of a clip.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hearbench.systems.parts.single_threads import single_threads, thread_count

TOKENS_AT_ONCE = 2_048  # some 60 MB inside a block of width 768, on each thread
GPU_FACTOR = 16  # more keeps a GPU busy; on a CPU, reused memory is faster


def as_batch(audio: Tensor) -> Tensor:
    """Checked waveforms [B, n] in float32.

    Raises:
        ValueError: for another number of dimensions, or without samples.
    """
    if audio.dim() != 2 or 0 in audio.shape:
        raise ValueError(
            f"audio has shape {list(audio.shape)}: give [clips, samples], at least one of each"
        )
    return audio.float()


def in_chunks(frames_BTF: Tensor, size: int) -> Tensor:
    """Frames [B, T, F] -> chunks [B, C, size, F], the last one padded with zeros."""
    filling = -frames_BTF.shape[1] % size
    return F.pad(frames_BTF, (0, 0, 0, filling)).unflatten(1, (-1, size))


def reflected_to(frames_BTF: Tensor, multiple: int) -> Tensor:
    """Frames [B, T, F], padded by reflection at the end to a multiple of frames.

    Equals numpy's mode "reflect", which can pad by more than the length; torch's can't.
    """
    count = frames_BTF.shape[1]
    index = torch.arange(count + -count % multiple, device=frames_BTF.device)
    index = index % max(1, 2 * count - 2)
    return frames_BTF[:, torch.minimum(index, 2 * count - 2 - index)]


def in_batches(function: Callable[[Tensor], Tensor], items: Tensor, at_once: int) -> Tensor:
    """`function` of items [B, C, ...], called with [b, ...] of all clips together: [B, C, ...].

    On a CPU each thread processes separate batches, which is faster than sharing every operation.

    Args:
        function: maps a tensor [b, ...] to another [b, ...].
        items: may be a view of overlapping pieces; only those being processed are copied.
        at_once: maximum number of items in one call on a CPU.
    """
    clips, chunks = items.shape[:2]
    count, is_cpu = clips * chunks, items.device.type == "cpu"
    threads = thread_count() if is_cpu else 1
    size = max(1, min(at_once if is_cpu else GPU_FACTOR * at_once, -(-count // threads)))
    parts = torch.arange(count, device=items.device).split(size)

    @torch.no_grad()
    def of_part(index: Tensor) -> Tensor:
        return function(items[index // chunks, index % chunks])

    if min(threads, len(parts)) == 1:
        return torch.cat([of_part(part) for part in parts]).unflatten(0, (clips, chunks))
    with single_threads(min(threads, len(parts))) as pool:
        results = list(pool.map(of_part, parts))
    return torch.cat(results).unflatten(0, (clips, chunks))
