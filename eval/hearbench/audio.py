"""Audio files: loading as mono float32 samples at a given rate, and 16-bit WAV."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

Batch = TypeVar("Batch")

UNKNOWN_SIZE = 0x7FFF0000  # bytes; programs that write into a pipe declare this many or more


class AudioError(ValueError):
    """A file without usable audio; the message names the file and the remedy."""


def load_audio(
    source: str | Path | bytes, sample_rate: int, longest: float | None = None
) -> NDArray[np.float32]:
    """Decode a file, average its channels and resample it to `sample_rate`.

    Args:
        source: path of the file, or its content.
        sample_rate: sample rate of the result, in Hz; others are converted by soxr ("HQ").
        longest: maximum duration in seconds.

    Returns:
        Samples [n], n >= 1, all finite; full scale is 1.

    Raises:
        AudioError: if the file is missing, can't be decoded, is truncated or empty, or contains NaN
            or infinite samples.
    """
    name = "audio" if isinstance(source, bytes) else str(source)
    try:
        with _open(source) as content:
            if _is_cut_off(content):
                raise AudioError(f"{name}: truncated, its header promises more data: copy it again")
            content.seek(0)
            with soundfile.SoundFile(content) as file:
                rate = file.samplerate
                if longest is not None and file.frames > longest * rate:
                    raise AudioError(f"{name}: too long, more than {longest:g} s: cut it")
                mono = file.read(dtype="float32", always_2d=True).mean(axis=1)
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


def wav(samples: NDArray[np.float32], sample_rate: int) -> bytes:
    """Encode samples [n] of full scale 1 as a 16-bit WAV file."""
    pcm = np.clip(np.rint(samples * 2.0**15), -(2**15), 2**15 - 1).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, pcm, sample_rate, format="WAV")
    return file.getvalue()


def decode_ahead(make: Callable[[int], Batch], count: int) -> Iterator[Batch]:
    """Yield ``make(0)`` to ``make(count - 1)``, each made in a thread while the last is used.

    An error in `make` is raised in place of its batch.
    """
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(make, 0)
        for step in range(1, count):
            batch, upcoming = upcoming.result(), pool.submit(make, step)
            yield batch
        if count:
            yield upcoming.result()


def _open(source: str | Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


def _is_cut_off(content: BinaryIO) -> bool:
    """Whether a RIFF WAVE file ends before its data chunk does; False for other formats."""
    size = content.seek(0, os.SEEK_END)
    content.seek(0)
    head = content.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return False
    while len(chunk := content.read(8)) == 8:
        length = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data":
            return size < content.tell() + length and length < UNKNOWN_SIZE
        content.seek(length + length % 2, os.SEEK_CUR)
    return True
