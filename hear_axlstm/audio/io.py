"""Audio files in: decoded, mixed to one channel, resampled to the model's rate."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64"}
)
"""File endings that libsndfile decodes."""

OTHER_AUDIO_SUFFIXES = frozenset(
    {".m4a", ".aac", ".mp4", ".wma", ".webm", ".mka", ".ape", ".amr", ".wv"}
)
"""Endings of audio that libsndfile can't decode: worth a word to the user, not silence."""


BLOCK_SAMPLES = 1 << 20  # decoded at once, over all channels
UNKNOWN_SIZE = 0x7FFF0000  # a program that writes into a pipe declares this much or more


class AudioError(ValueError):
    """A file that gives no usable audio; the message names the file and the remedy."""


def load_audio(
    source: str | Path | bytes,
    sample_rate: int = 16_000,
    start: float = 0.0,
    end: float | None = None,
    longest: float | None = None,
) -> NDArray[np.float32]:
    """Decode a file, or a span of it, to one channel at `sample_rate`.

    Channels are averaged; other rates go through soxr's high-quality resampler.

    Args:
        source: path of the file, or its content.
        sample_rate: of the result, in Hz.
        start: where the span begins, in seconds.
        end: where it ends, by default with the file; a file that ends earlier ends the span.
        longest: refuse what is longer than so many seconds, before it takes memory.

    Returns:
        Samples [n], n >= 1, all finite; full scale is 1.

    Raises:
        AudioError: if the file is missing, not decodable, cut off, empty, or holds NaN or infinite
            samples.
    """
    name = "audio" if isinstance(source, bytes) else str(source)
    _check_file(source, name)
    try:
        # as bytes, because soundfile can't encode a name that is not UTF-8
        opened = io.BytesIO(source) if isinstance(source, bytes) else os.fsencode(source)
        with soundfile.SoundFile(opened) as file:
            rate = file.samplerate
            mono = _read_mono(file, name, start, end, longest)
    except AudioError:
        raise
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        if not isinstance(source, bytes) and not os.access(source, os.R_OK):
            raise AudioError(f"{name}: no permission to read it: change its mode") from error
        detail = getattr(error, "error_string", str(error)).rstrip(".") or "damaged or cut off"
        raise AudioError(
            f"{name}: not decodable ({detail}): copy it again or convert it, e.g. to FLAC"
        ) from error
    if rate != sample_rate and mono.size:
        mono = soxr.resample(mono, rate, sample_rate, quality="HQ")
    if not mono.size:
        raise AudioError(f"{name}: empty, no samples: remove the file or record it again")
    if not np.isfinite(mono).all():
        raise AudioError(f"{name}: holds NaN or infinite samples: export it again")
    return np.ascontiguousarray(mono, dtype=np.float32)


def _check_file(source: str | Path | bytes, name: str) -> None:
    if isinstance(source, bytes):
        size, suffix = len(source), ""
    else:
        path = Path(source)
        if not path.is_file():
            raise AudioError(f"{name}: no such file: check the path")
        size, suffix = path.stat().st_size, path.suffix.lower()
    if not size:
        raise AudioError(f"{name}: empty, 0 bytes: copy the file again")
    if suffix in OTHER_AUDIO_SUFFIXES:
        raise AudioError(f"{name}: {suffix} is not supported: convert it, e.g. to FLAC")


def _read_mono(
    file: soundfile.SoundFile, name: str, start: float, end: float | None, longest: float | None
) -> NDArray[np.float32]:
    """The mean of the channels, [n] at the file's rate; in blocks, to spare memory."""
    rate = file.samplerate
    first = round(start * rate)
    last = file.frames if end is None else min(file.frames, round(end * rate))
    if first and first >= file.frames:
        seconds = file.frames / rate
        raise AudioError(
            f"{name}: too short: ends at {seconds:g} s, the span begins at {start:g} s"
        )
    if longest is not None and last - first > longest * rate:
        hours = (last - first) / rate / 3600
        raise AudioError(f"{name}: too long, {hours:.2f} hours: cut it, or list spans of it")
    if _is_cut_off(file):
        raise AudioError(f"{name}: truncated, its header tells of more data: copy it again")
    if first:
        file.seek(first)
    block = max(1, BLOCK_SAMPLES // file.channels)
    parts = [np.zeros(0, np.float32)]
    left = last - first
    while left > 0:
        samples = file.read(min(block, left), dtype="float32", always_2d=True)
        if not len(samples):
            break
        parts.append(samples.mean(axis=1))
        left -= len(samples)
    if left > 0.01 * (last - first):  # an MP3's header may be wrong by some frames
        raise AudioError(
            f"{name}: truncated, {last - first - left} of {last - first} samples are there: "
            "copy it again"
        )
    return np.concatenate(parts)


def _is_cut_off(file: soundfile.SoundFile) -> bool:
    """Whether libsndfile noticed, and passed over, that data is missing at the end."""
    notes = file.extra_info
    if "lacks an end-of-stream" in notes:  # Ogg
        return True
    # WAV, AIFF and W64 declare the size of their data; a stream of unknown length declares 2^31 on
    sizes = re.findall(r"^ *(?:data|SSND|riff) *: (\d+) \(should be (\d+)\)", notes, re.MULTILINE)
    return any(int(there) < int(declared) < UNKNOWN_SIZE for declared, there in sizes)
