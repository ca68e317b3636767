"""Decoded clips, and which of them can be used: not broken, silent, too short or too loud."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.audio.errors import AudioError, may_pass, printable
from hear_axlstm.audio.skipped import Skipped
from hear_axlstm.wording import plural

LONGEST = 3600.0  # seconds; bounds a worker's memory
SILENCE = 1e-4  # peak in full scale, -80 dB: three steps of 16-bit audio
MAX_AMPLITUDE = 1e15  # the power of louder samples overflows float32
SHORTEST_SECONDS = 0.025  # one frame of the front end; shorter clips have no spectrum

Result = TypeVar("Result")


@dataclass(frozen=True)
class Decoded:
    """A decoded clip."""

    id: str
    waveform: NDArray[np.float32]
    """Mono samples ``[n]``."""


def decode(
    clip: AudioClip | Skipped, sample_rate: int, longest: float | None = LONGEST
) -> Decoded | Skipped:
    """Decode a clip, or return why that failed; never raises."""
    if isinstance(clip, Skipped):
        return clip
    try:
        return Decoded(clip.id, clip.decode(sample_rate, longest))
    except AudioError as error:
        name = printable(clip.source if isinstance(clip.source, str) else clip.id)
        return Skipped(clip.id, str(error).removeprefix(f"{name}: "), may_pass(error.__cause__))
    except Exception as error:  # one odd file must not stop a run over millions
        reason = f"failed with {type(error).__name__} ({error})"
        return Skipped(clip.id, reason, transient=isinstance(error, MemoryError))


def unusable_reason(waveform: NDArray[np.float32], sample_rate: int) -> str | None:
    """Why samples are unusable (too short, silent or too loud), or None if they are usable."""
    shortest = round(SHORTEST_SECONDS * sample_rate)
    if waveform.size < shortest:
        return f"too short: {plural(waveform.size, 'sample')}, but {shortest} are needed"
    low, high, mean = waveform.min(), waveform.max(), waveform.mean(dtype=np.float64)
    if max(high - mean, mean - low) < SILENCE:
        return "silent: its peak is below -80 dB of full scale"
    if max(high, -low) > MAX_AMPLITUDE:
        return "too loud: its power is not a finite number; export it again"
    return None


def decode_usable(
    clip: AudioClip | Skipped, sample_rate: int, longest: float | None = LONGEST
) -> Decoded | Skipped:
    """Decode a clip like `decode`, but also skip unusable clips."""
    found = decode(clip, sample_rate, longest)
    if isinstance(found, Decoded) and (reason := unusable_reason(found.waveform, sample_rate)):
        return Skipped(found.id, reason)
    return found


def sample_count(item: Decoded | Skipped) -> int:
    """Number of samples of a decoded clip; 0 for a skipped one."""
    return item.waveform.size if isinstance(item, Decoded) else 0


def compute_decoded(
    items: Sequence[Decoded | Skipped],
    compute: Callable[[Sequence[Decoded]], Iterable[Result]],
) -> list[Result | Skipped]:
    """Replace the decoded clips by results computed in one batch; skipped ones stay, in order."""
    decoded = [item for item in items if isinstance(item, Decoded)]
    results = iter(compute(decoded) if decoded else ())
    return [item if isinstance(item, Skipped) else next(results) for item in items]
