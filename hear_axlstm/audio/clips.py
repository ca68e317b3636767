"""Clips that have not been decoded, and the interface of the sources that list them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from numpy import float32
from numpy.typing import NDArray

from hear_axlstm.audio.io import load_audio
from hear_axlstm.audio.skipped import Skipped


@dataclass(frozen=True)
class AudioClip:
    """Reference to an audio clip that has not been decoded."""

    id: str
    source: str | bytes
    """Path or content of the file."""
    start: float = 0.0
    """Start in seconds."""
    end: float | None = None
    """End in seconds; None means the end of the file."""
    labels: tuple[str, ...] = ()
    """Classes, if known."""

    @property
    def span(self) -> tuple[object, ...]:
        """The file, however its path is written, and the part of it; equal for equal clips."""
        is_path = isinstance(self.source, str)
        return os.path.realpath(self.source) if is_path else self.source, self.start, self.end

    def decode(self, sample_rate: int, longest: float | None = None) -> NDArray[float32]:
        """Decode the clip to mono samples ``[n]`` at `sample_rate`.

        Args:
            sample_rate: sample rate in Hz.
            longest: maximum duration in seconds.

        Raises:
            AudioError: if the file has no usable audio.
        """
        return load_audio(self.source, sample_rate, self.start, self.end, longest, self.id)


@dataclass(frozen=True)
class ClipGroup:
    """Consecutive clips of a source: a number of single files, or one tar."""

    clips: Iterable[AudioClip | Skipped]
    size: int | None
    """Number of clips, if known without reading them."""
    inputs: Callable[[], Iterable[str]]
    """What the clips are read from, as text that changes when a file does."""


class Source(Protocol):
    """A source of clips in a fixed order."""

    name: str
    """The inputs as given to `open_source`, with absolute paths, to distinguish sources."""

    def clips(self) -> Iterator[AudioClip | Skipped]:
        """All clips."""

    def groups(self, size: int, most: int | None = None) -> Iterator[ClipGroup]:
        """All clips, in groups of `size`; a tar is always one group.

        The groups are larger if a source of single files would have more than `most` of them.
        """

    def sample(self, size: int) -> tuple[list[AudioClip | Skipped], int]:
        """About `size` representative clips, and the total number of clips."""


def file_stamp(path: str) -> str:
    """Size, modification time and readability of a file."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return "missing"
    readable = "" if os.access(path, os.R_OK) else ":unreadable"
    return f"{stat.st_size}:{stat.st_mtime_ns}{readable}"
