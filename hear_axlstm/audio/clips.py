"""What a source of audio gives: clips to be, in units that become one shard each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Clip:
    """A clip to be."""

    id: str
    audio: str | bytes
    """Path of the file, or its content."""
    start: float = 0.0
    """Seconds."""
    end: float | None = None
    """Seconds; None is the end of the file."""


@dataclass(frozen=True)
class Skipped:
    """What gives no clip."""

    id: str
    reason: str
    passing: bool = False
    """Whether it may work the next time, with the same input: a connection that broke."""

    @property
    def kind(self) -> str:
        """The reason without particulars, to count by."""
        return re.split("[:,(]", self.reason)[0].strip()


@dataclass(frozen=True)
class Unit:
    """The clips of one shard."""

    clips: Iterable[Clip | Skipped]
    size: int | None
    """How many, where that is known without reading them."""
    inputs: Callable[[], Iterable[str]]
    """What the shard is made from, as text that changes when a file does."""


class Source(Protocol):
    """Clips in a fixed order."""

    name: str
    """Absolute, so that two sources don't get mixed up."""

    def units(self, size: int | None = None) -> Iterator[Unit]:
        """All clips, shard by shard; of single files, `size` make one."""

    def sample(self, size: int) -> tuple[list[Clip | Skipped], int]:
        """About `size` clips that stand for the rest, and how many there are in all."""
