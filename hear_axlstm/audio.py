"""Audio files in: decoded, mixed to one channel, resampled to the model's rate."""

from __future__ import annotations

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


class AudioError(ValueError):
    """A file that gives no usable audio; the message names the file and the remedy."""


def load_audio(path: str | Path, sample_rate: int = 16_000) -> NDArray[np.float32]:
    """Decode a file to one channel at `sample_rate`.

    Channels are averaged; other rates go through soxr's high-quality resampler.

    Returns:
        Samples [n], n >= 1, all finite; full scale is 1.

    Raises:
        AudioError: if the file is missing, not decodable, empty, or holds NaN or infinite samples.
    """
    path = Path(path)
    samples, rate = _decode(path)
    mono = samples.mean(axis=1)
    if rate != sample_rate and mono.size:
        mono = soxr.resample(mono, rate, sample_rate, quality="HQ")
    if not mono.size:
        raise AudioError(f"{path}: empty, no samples: remove the file or record it again")
    if not np.isfinite(mono).all():
        raise AudioError(f"{path}: holds NaN or infinite samples: export it again")
    return np.ascontiguousarray(mono, dtype=np.float32)


def _decode(path: Path) -> tuple[NDArray[np.float32], int]:
    """Samples [n, channels] and their rate in Hz."""
    if not path.is_file():
        raise AudioError(f"{path}: no such file: check the path")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: empty, 0 bytes: copy the file again")
    if path.suffix.lower() in OTHER_AUDIO_SUFFIXES:
        raise AudioError(f"{path}: {path.suffix} is not supported: convert it, e.g. to FLAC")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise AudioError(
            f"{path}: not decodable ({error}): copy it again or convert it, e.g. to FLAC"
        ) from error
    return samples, rate
