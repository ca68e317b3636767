"""Audio files: loading as mono float32 samples at a given rate, and 16-bit WAV."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from hearbench.errors import HearbenchError

Batch = TypeVar("Batch")

FORMATS = ("WAV", "WAVEX", "FLAC")
UNKNOWN_SIZE = 0x7FFF0000  # bytes; programs that write into a pipe declare this many or more
UNKNOWN_FRAMES = 1 << 40  # libsndfile reports more for a FLAC that does not declare its length


class AudioError(HearbenchError, ValueError):
    """A file without usable audio; the message names the file and the remedy."""


def load_audio(
    source: str | Path | bytes, sample_rate: int, longest: float | None = None
) -> NDArray[np.float32]:
    """Decode a file, average its channels and resample it to `sample_rate`.

    WAV and FLAC are supported if they declare their length; HEAR tasks are WAV.

    Args:
        source: path of the file, or its content.
        sample_rate: sample rate of the result, in Hz; others are converted by soxr ("HQ").
        longest: maximum duration in seconds.

    Returns:
        Samples [n], n >= 1, all finite; full scale is 1.

    Raises:
        AudioError: if the file is missing, can't be decoded, is truncated or empty, does not
            declare its length, or contains NaN or infinite samples.
    """
    name = "audio" if isinstance(source, bytes) else str(source)
    try:
        with _open(source) as content, soundfile.SoundFile(content) as file:
            rate = file.samplerate
            if fault := _fault(content, file, longest):
                raise AudioError(f"{name}: {fault}")
            samples = file.read(dtype="float32", always_2d=True)
            if len(samples) < file.frames:
                raise AudioError(
                    f"{name}: truncated, {len(samples):,} of {file.frames:,} samples: copy it again"
                )
            mono = samples.mean(axis=1)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        detail = getattr(error, "error_string", str(error)).rstrip(".")
        raise AudioError(f"{name}: not decodable ({detail}): copy it again") from error
    if rate != sample_rate and mono.size:
        mono = soxr.resample(mono, rate, sample_rate, quality="HQ")
    if not mono.size:
        raise AudioError(f"{name}: contains no audio: copy it again")
    if not np.isfinite(mono).all():
        raise AudioError(f"{name}: contains NaN or infinite samples: export it again")
    return np.ascontiguousarray(mono, dtype=np.float32)


def _fault(content: BinaryIO, file: soundfile.SoundFile, longest: float | None) -> str | None:
    """Why an open file is not decoded, or None; leaves the position in `content` unchanged."""
    position = content.tell()
    try:
        if file.format not in FORMATS:
            return f"{file.format} is not supported: convert it to WAV"
        if file.format.startswith("WAV") and (fault := _fault_of_wav(content)):
            return fault
        if file.frames > UNKNOWN_FRAMES:
            return "does not declare its length: convert it to WAV"
        if longest is not None and file.frames > longest * file.samplerate:
            return f"too long, more than {longest:g} s: shorten it"
        return None
    finally:
        content.seek(position)


def wav(samples: NDArray[np.float32], sample_rate: int) -> bytes:
    """Encode samples [n] of full scale 1 as a 16-bit WAV file."""
    pcm = np.clip(np.rint(samples * 2.0**15), -(2**15), 2**15 - 1).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, pcm, sample_rate, format="WAV")
    return file.getvalue()


def prefetch(make: Callable[[int], Batch], count: int) -> Iterator[Batch]:
    """Yield ``make(0)`` to ``make(count - 1)``, each made in a thread while the last is used.

    An error in `make` is raised in place of its batch.
    """
    with ThreadPoolExecutor(1) as pool:
        upcoming: deque[Future[Batch]] = deque()
        for step in range(count):
            upcoming.append(pool.submit(make, step))
            if step:
                yield upcoming.popleft().result()
        for batch in upcoming:
            yield batch.result()


def _open(source: str | Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


def _fault_of_wav(content: BinaryIO) -> str | None:
    """Whether a RIFF WAVE file ends before its data chunk does, or has one of unknown size."""
    end = content.seek(0, os.SEEK_END)
    content.seek(0)
    if content.read(12)[:4] != b"RIFF":
        return None
    while len(chunk := content.read(8)) == 8:
        size = int.from_bytes(chunk[4:], "little")
        there = end - content.tell()
        if chunk[:4] == b"data":
            if size == 0 and there > 8:
                return "its header declares 0 bytes of audio, but it contains more: export it again"
            is_cut = there < size < UNKNOWN_SIZE
            return "truncated, its header declares more data: copy it again" if is_cut else None
        content.seek(size + size % 2, os.SEEK_CUR)
    return "truncated, it has no data chunk: copy it again"
