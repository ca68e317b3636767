"""Loading audio files: decoding, mixing to one channel and resampling to the model's rate."""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import IO

import numpy as np
from numpy.typing import NDArray

from hear_axlstm.audio.containers.part import Block, Part
from hear_axlstm.audio.decoders import open_part
from hear_axlstm.audio.errors import AudioError, Fault, printable
from hear_axlstm.audio.formats import (
    fault_of_unknown,
    find_parts,
)
from hear_axlstm.audio.opening import AudioFile, open_file, source_name
from hear_axlstm.audio.random_access import RandomAccess
from hear_axlstm.audio.resample import check_rate, resampled
from hear_axlstm.wording import duration

SETTLED = 2.0  # seconds; a later change has another modification time on every file system
LONGEST_SECONDS = 24 * 3600.0  # a day at 16 kHz takes 5.5 GB


def load_audio(
    source: AudioFile,
    sample_rate: int = 16_000,
    start: float = 0.0,
    end: float | None = None,
    longest: float | None = None,
    name: str = "audio",
) -> NDArray[np.float32]:
    """Decode a file, or a span of it, to one channel at `sample_rate`.

    The format is detected from the content, whatever the file's name, and the file is decoded to
    its end: concatenated recordings are read one after another, and a file with less audio than
    its container declares is rejected. Channels are averaged; other rates are converted by soxr's
    high-quality resampler. Formats: docs/formats.md.

    Args:
        source: path of the file, its content, or an open binary file, which is read from its
            beginning.
        sample_rate: sample rate of the result, in Hz.
        start: start of the span in seconds.
        end: end of the span in seconds, by default the end of the file; clipped to it.
        longest: maximum duration in seconds, by default a day; checked before memory is allocated.
        name: name in messages of a source without a path.

    Returns:
        Samples [n], n >= 1, all finite; full scale is 1.

    Raises:
        AudioError: if the file is missing, not decodable, truncated or empty, or contains NaN or
            infinite samples.
        TypeError: if the source is not a path, bytes or a file.
    """
    name = printable(source_name(source, name))
    with _naming(name):
        _check_span(sample_rate, start, end)
        with open_file(source) as opened:
            file = RandomAccess(opened)
            blocks = _blocks(file, start, end, LONGEST_SECONDS if longest is None else longest)
            with _after(file.check):
                mono = np.concatenate([np.zeros(0, np.float32), *resampled(blocks, sample_rate)])
    if not mono.size:
        raise AudioError(f"{name}: contains no samples (at {sample_rate:,} Hz): export it again")
    if not np.isfinite(mono).all():
        raise AudioError(f"{name}: contains NaN or infinite samples: export it again")
    return mono


class Content(io.BytesIO):
    """Content of an open file, as a file with the same name."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.size, self.name = len(content), name


def read_whole(file: IO[bytes], most: int, name: str = "audio") -> Content | None:
    """Read an open binary file from its beginning; None if it has more than `most` bytes.

    Args:
        file: the file.
        most: maximum number of bytes.
        name: name in messages of a file without a path.

    Raises:
        AudioError: if it is empty or not readable.
    """
    name = source_name(file, name)
    with _naming(printable(name)), open_file(file) as opened:
        access = RandomAccess(opened)
        return None if access.size > most else Content(access.at(0, access.size), name)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Raise faults and errors of the system as AudioError, with the name of the source."""
    try:
        yield
    except Fault as fault:
        raise AudioError(f"{name}: {fault}") from fault.__cause__
    except OSError as error:
        why = error.strerror or error
        raise AudioError(f"{name}: not readable ({why}): check the disk or network") from error


@contextmanager
def _after(check: Callable[[], object]) -> Iterator[None]:
    """Check at the end, also after a fault: its cause may be an error that `check` raises."""
    try:
        yield
    except Fault:
        check()
        raise
    check()


def _check_span(sample_rate: int, start: float, end: float | None) -> None:
    if sample_rate < 1:
        raise Fault(f"sample_rate={sample_rate}: give a sample rate in Hz")
    if not 0 <= start < math.inf:
        raise Fault(f"start={start}: give the start of the span in seconds, 0 or more")
    if end is not None and not start < end:
        raise Fault(f"end={end}: give an end after the start, {start} s")


def _blocks(file: RandomAccess, start: float, end: float | None, longest: float) -> Iterator[Block]:
    """Yield the channel mean of all parts in order, from `start` to `end` seconds."""
    parts = _parts(file)
    if not parts:
        raise fault_of_unknown(file)
    before = taken = 0.0  # seconds
    for part in parts:
        decoder = open_part(file, part)
        rate = decoder.rate
        check_rate(rate)
        first = max(0, round((start - before) * rate))
        last = None if end in (None, math.inf) else round((end - before) * rate)
        if last is not None and last <= 0:
            return
        if decoder.frames is not None:
            there = decoder.frames if last is None else min(last, decoder.frames)
            _check_length(taken + (there - first) / rate, longest)
            before += decoder.frames / rate
            if first and first >= decoder.frames:
                continue
        count = 0
        for block_rate, mono in decoder.blocks(first, last):
            count += len(mono)
            _check_length(taken + count / block_rate, longest)
            yield block_rate, mono
        taken += count / rate
        if decoder.frames is None:
            before += decoder.position / rate
    if start and not taken:
        raise Fault(f"too short: ends at {before:g} s, but the span begins at {start:g} s")


@dataclass(frozen=True)
class _Version:
    """A file on disk, equal to itself until it changes."""

    device: int
    inode: int
    size: int
    modified: int  # ns
    file: RandomAccess = field(compare=False)


@lru_cache(maxsize=8)
def _parsed(version: _Version) -> list[Part]:
    return find_parts(version.file)


def _parts(file: RandomAccess) -> list[Part]:
    """The recordings in a file; of spans in one file, only the first parses it."""
    raw = getattr(file.file, "raw", None)
    if isinstance(raw, io.FileIO):
        stat = os.fstat(raw.fileno())
        if time.time() - stat.st_mtime > SETTLED:
            version = stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
            return _parsed(_Version(*version, file))
    return find_parts(file)


def _check_length(seconds: float, longest: float) -> None:
    if seconds > longest:
        raise Fault(
            f"too long, {duration(seconds)} or more: split it, or list spans of it in a CSV"
        )
