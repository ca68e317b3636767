"""Decoding of files in threads ahead of their use."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TypeVar

import torch

from hear_axlstm.ahead import Threads, map_ahead
from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.audio.skipped import Skipped
from hear_axlstm.audio.usable import LONGEST, Decoded, decode_usable, sample_count

AHEAD = 8  # clips in flight per worker
HELD_SAMPLES = 16_000 * 600  # decoded and waiting; no further clips are started above this

Key = TypeVar("Key")


def decoding_threads() -> int:
    """Number of threads that decode files while the model computes."""
    return max(2, torch.get_num_threads())


def decode_ahead(
    jobs: Iterable[tuple[Key, AudioClip | Skipped]],
    sample_rate: int,
    longest: float | None = LONGEST,
    held_samples: int = HELD_SAMPLES,
) -> Generator[tuple[Key, Decoded | Skipped]]:
    """Decode clips by `decode_usable` in threads, in order.

    Args:
        jobs: clips, each with a key that is returned with it.
        sample_rate: in Hz.
        longest: seconds above which a clip is skipped; None for no limit.
        held_samples: number of decoded samples that wait above which no clip is started.
    """

    def keyed(job: tuple[Key, AudioClip | Skipped]) -> tuple[Key, Decoded | Skipped]:
        return job[0], decode_usable(job[1], sample_rate, longest)

    def samples(result: tuple[Key, Decoded | Skipped]) -> int:
        return sample_count(result[1])

    threads = decoding_threads()
    with Threads(threads) as pool:
        yield from map_ahead(
            keyed, jobs, pool, AHEAD * threads, samples, held_samples, content_bytes
        )


def content_bytes(job: tuple[object, AudioClip | Skipped]) -> int:
    """Bytes of file content that a job, a pair of a key and a clip, holds in memory."""
    clip = job[1]
    return len(clip.source) if isinstance(clip, AudioClip) and isinstance(clip.source, bytes) else 0
