"""Resampling of blocks, without holding all of them in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter

import numpy as np
import soxr
from numpy.typing import NDArray

from hear_axlstm.audio.errors import Fault

RATES = range(1_000, 10_000_001)  # Hz; a header with another rate is wrong
BATCH_SAMPLES = 1 << 18
Mono = NDArray[np.float32]


def resampled(blocks: Iterable[tuple[int, Mono]], sample_rate: int) -> Iterator[Mono]:
    """Resample blocks to `sample_rate` with soxr's high-quality resampler.

    Args:
        blocks: sample rate and samples [n] of each; consecutive blocks of one rate are one signal.
        sample_rate: sample rate of the result in Hz.

    Raises:
        Fault: for an implausible sample rate.
    """
    for rate, group in groupby(blocks, key=itemgetter(0)):
        check_rate(rate)
        batches = _batched(mono for _, mono in group)
        if rate == sample_rate:
            yield from batches
            continue
        stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
        for batch in batches:
            yield stream.resample_chunk(batch)
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def check_rate(rate: int) -> None:
    """Reject a rate at which a short file would become hours of audio, or none.

    Raises:
        Fault: for an implausible sample rate.
    """
    if rate not in RATES:
        raise Fault(
            f"wrong sample rate: its header says {rate:,} Hz; {RATES[0]:,} to {RATES[-1]:,} Hz are "
            "supported: correct the header"
        )


def _batched(blocks: Iterable[Mono]) -> Iterator[Mono]:
    held: list[Mono] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block)
        if count >= BATCH_SAMPLES:
            yield np.concatenate(held)
            held, count = [], 0
    if held:
        yield np.concatenate(held)
