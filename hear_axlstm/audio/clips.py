"""Clips that have not been decoded, and the interface of the sources that list them."""

from __future__ import annotations

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

    def decode(self, sample_rate: int, longest: float | None = None) -> NDArray[float32]:
        """Decode the clip to mono samples ``[n]`` at `sample_rate`.

        Args:
            sample_rate: sample rate in Hz.
            longest: maximum duration in seconds.

        Raises:
            AudioError: if the file has no usable audio.
        """
        return load_audio(self.source, sample_rate, self.start, self.end, longest)


@dataclass(frozen=True)
class ShardSpec:
    """The clips of one shard."""

    clips: Iterable[AudioClip | Skipped]
    size: int | None
    """Number of clips, if known without reading them."""
    inputs: Callable[[], Iterable[str]]
    """What the shard is made from, as text that changes when a file does."""


class Source(Protocol):
    """A source of clips in a fixed order."""

    name: str
    """Absolute name, to distinguish sources."""

    def shards(self, size: int | None = None) -> Iterator[ShardSpec]:
        """All clips, shard by shard; single files are grouped into shards of `size`."""

    def sample(self, size: int) -> tuple[list[AudioClip | Skipped], int]:
        """About `size` representative clips, and the total number of clips."""
