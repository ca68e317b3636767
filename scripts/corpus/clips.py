"""Clips from the bytes of an audio file: decoded, trimmed, cut, and joined if short."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from scripts.corpus.sources import License

Wave = NDArray[np.float32]

RATE = 16_000
LONGEST = 10.0  # seconds of a clip
SHORTEST_FILE, SHORTEST_SOUND, SHORTEST_CLIP = 0.05, 0.08, 0.5  # seconds
SHORTEST_PIECE = 3.0  # seconds of the last piece of a long file
JOIN_BELOW = 2.0  # seconds under which a sound shares a clip with others
GAPS = (0.1, 0.3)  # shortest and longest silence between joined sounds, in seconds
FADE = 0.005  # seconds at both ends of a joined sound, against clicks
READ_AT_MOST = 1200.0  # seconds of a file
SOURCE_RATES = (4_000, 192_000)
OPPOSITE_PHASE = 0.05  # share of the louder channel's power under which the mean cancels


class UnusableError(ValueError):
    """Raised for a file or piece that can't be used as a clip; the message says why."""


@dataclass(frozen=True)
class Sound:
    """Audio at 16 kHz, mono, and where it comes from."""

    path: str
    license: License
    start: float
    """Seconds from the beginning of the file."""
    wave: Wave

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.wave) / RATE

    @property
    def origin(self) -> str:
        """Path and seconds, as the manifest names them."""
        return f"{self.path}@{self.start:.2f}-{self.start + self.seconds:.2f}"


def decode(data: bytes) -> Wave:
    """16 kHz mono without offset, of the first 20 minutes of a file.

    Channels are averaged, or the loudest is taken where they cancel each other.

    Raises:
        UnusableError: for what libsndfile can't read, and for less than 50 ms.
    """
    try:
        with sf.SoundFile(io.BytesIO(data)) as file:
            rate = file.samplerate
            if not SOURCE_RATES[0] <= rate <= SOURCE_RATES[1]:
                raise UnusableError(f"unsupported sample rate {rate}")
            audio = file.read(int(READ_AT_MOST * rate), dtype="float32", always_2d=True)
    except (sf.LibsndfileError, RuntimeError, TypeError) as error:
        raise UnusableError(f"not decoded: {type(error).__name__}") from None
    if len(audio) < SHORTEST_FILE * rate:
        raise UnusableError("too short")
    if not np.isfinite(audio).all():
        raise UnusableError("not finite")
    wave = audio.mean(axis=1)
    if audio.shape[1] > 1:
        power = np.square(audio, dtype=np.float64).mean(axis=0)
        if np.square(wave, dtype=np.float64).mean() < OPPOSITE_PHASE * power.max():
            wave = audio[:, int(power.argmax())]
    if rate != RATE:
        wave = soxr.resample(wave, rate, RATE, quality="HQ")
    return (wave - np.float32(wave.mean())).astype(np.float32)


def trim(wave: Wave) -> tuple[int, int]:
    """First and last sample of the sound between silences.

    Silence is 50 dB below the loudest 20 ms; 0.15 s of it are kept.
    """
    hop = RATE // 50
    frames = len(wave) // hop
    if frames < 3:
        return 0, len(wave)
    squares = np.square(wave[: frames * hop].reshape(frames, hop), dtype=np.float64)
    rms = np.sqrt(squares.mean(axis=1))
    loud = np.flatnonzero(rms > max(rms.max() * 10 ** (-50 / 20), 1e-4))
    if not len(loud):
        return 0, 0
    pad = int(0.15 * RATE)
    return max(0, loud[0] * hop - pad), min(len(wave), (loud[-1] + 1) * hop + pad)


def check(wave: Wave) -> None:
    """Raise an `UnusableError` for silence and for a constant or clipped wave."""
    if len(wave) < SHORTEST_SOUND * RATE:
        raise UnusableError("too short")
    peak = float(np.abs(wave).max())
    if peak < 2e-3 or np.sqrt(np.square(wave, dtype=np.float64).mean()) < 1e-4:
        raise UnusableError("silent")
    if np.mean(np.abs(wave) > 0.999 * peak) > 0.2:
        raise UnusableError("clipped or constant")


def cut(samples: int, most: int) -> list[tuple[int, int]]:
    """First and last sample of up to `most` pieces of at most 10 s, evenly spread over a file."""
    size = int(LONGEST * RATE)
    if samples <= size:
        return [(0, samples)]
    starts = list(range(0, samples - int(SHORTEST_PIECE * RATE) + 1, size))
    if len(starts) > most:
        starts = [starts[int((i + 0.5) * len(starts) / most)] for i in range(most)]
    return [(start, min(start + size, samples)) for start in starts]


def faded(wave: Wave) -> Wave:
    """The wave with both ends faded, for joining."""
    length = min(int(FADE * RATE), len(wave) // 4)
    ramp = np.linspace(0, 1, length, dtype=np.float32)
    result = wave.copy()
    result[:length] *= ramp
    result[len(result) - length :] *= ramp[::-1]
    return result


def join(sounds: Iterable[Sound], repository: str) -> Iterator[tuple[Wave, list[Sound]]]:
    """Put sounds one after another, with gaps, into clips of at most 10 s.

    Yields:
        A clip and the sounds in it, in the given order.
    """
    parts: list[Wave] = []
    members: list[Sound] = []
    samples = 0
    for sound in sounds:
        share = int(digest(repository, sound.path)[:4], 16) / 0xFFFF
        gap = int((GAPS[0] + (GAPS[1] - GAPS[0]) * share) * RATE)
        if members and samples + gap + len(sound.wave) > LONGEST * RATE:
            yield np.concatenate(parts), members
            parts, members, samples = [], [], 0
        if members:
            parts.append(np.zeros(gap, np.float32))
        parts.append(sound.wave)
        members.append(sound)
        samples = sum(map(len, parts))
    if members:
        yield np.concatenate(parts), members


def encode(wave: Wave) -> bytes:
    """A clip as 16-bit FLAC, quieter if it would clip."""
    peak = float(np.abs(wave).max())
    if peak > 0.98:
        wave = wave * np.float32(0.98 / peak)
    buffer = io.BytesIO()
    sf.write(buffer, wave, RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def digest(*parts: str) -> str:
    """Hash of names: an order, or a number, that depends on nothing else."""
    return hashlib.sha1("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
