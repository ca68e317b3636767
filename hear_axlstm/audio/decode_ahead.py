"""Decoding of files ahead of their use: in the background, in order and in bounded memory.

All commands share the loop `map_ahead`: `decode_ahead` uses it to decode clips in threads, packing
to extract features in processes, and training to prepare the next batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hear_axlstm.audio.errors import printable
from hear_axlstm.audio.io import AudioError
from hear_axlstm.audio.skipped import Skipped
from hear_axlstm.audio.sources import AudioClip
from hear_axlstm.wording import plural

AHEAD = 8  # clips in flight per worker
LONGEST = 3600.0  # seconds; bounds a worker's memory
SILENCE = 1e-4  # peak in full scale, -80 dB: three steps of 16-bit audio
MAX_AMPLITUDE = 1e15  # the power of louder samples overflows float32
SHORTEST_SECONDS = 0.025  # one frame of the front end; shorter clips have no spectrum
HELD_SAMPLES = 16_000 * 600  # decoded and waiting; no further clips are started above this
HELD_BYTES = 1 << 28  # bytes of files read from tars that are in flight

Key = TypeVar("Key")
Item = TypeVar("Item")
Result = TypeVar("Result")
Batch = TypeVar("Batch")


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
        name = printable(clip.source) if isinstance(clip.source, str) else "audio"
        return Skipped(clip.id, str(error).removeprefix(f"{name}: "))
    except Exception as error:  # one odd file must not stop a run over millions
        return Skipped(clip.id, f"failed with {type(error).__name__} ({error})")


def fault(waveform: NDArray[np.float32], sample_rate: int) -> str | None:
    """Why samples are unusable (too short, silent or too loud), or None if they are usable."""
    shortest = round(SHORTEST_SECONDS * sample_rate)
    if waveform.size < shortest:
        return f"too short: {plural(waveform.size, 'sample')}, at least {shortest} are needed"
    if np.abs(waveform - waveform.mean(dtype=np.float64)).max() < SILENCE:
        return "silent: its peak is below -80 dB of full scale"
    if np.abs(waveform).max() > MAX_AMPLITUDE:
        return "too loud: its power is not a finite number, export it again"
    return None


def decode_usable(
    clip: AudioClip | Skipped, sample_rate: int, longest: float | None = LONGEST
) -> Decoded | Skipped:
    """Decode a clip like `decode`, but also skip clips with a `fault`."""
    found = decode(clip, sample_rate, longest)
    if isinstance(found, Decoded) and (reason := fault(found.waveform, sample_rate)):
        return Skipped(found.id, reason)
    return found


def sample_count(item: Decoded | Skipped) -> int:
    """Number of samples of a decoded clip; 0 for a skipped one."""
    return item.waveform.size if isinstance(item, Decoded) else 0


def decode_ahead(
    jobs: Iterable[tuple[Key, AudioClip | Skipped]],
    work: Callable[[AudioClip | Skipped], Decoded | Skipped],
    threads: int,
    held_samples: int = HELD_SAMPLES,
) -> Generator[tuple[Key, Decoded | Skipped]]:
    """Decode clips in threads, in order.

    Args:
        jobs: clips, each with a key that is returned with it.
        work: function that decodes one clip, e.g. `decode`.
        threads: number of files decoded at the same time.
        held_samples: maximum number of decoded samples that wait; bounds memory.
    """

    def keyed(job: tuple[Key, AudioClip | Skipped]) -> tuple[Key, Decoded | Skipped]:
        return job[0], work(job[1])

    def samples(result: tuple[Key, Decoded | Skipped]) -> int:
        return sample_count(result[1])

    with ThreadPoolExecutor(threads) as pool:
        yield from map_ahead(keyed, jobs, pool, AHEAD * threads, samples, held_samples)


def groups(items: Iterable[Item], size: Callable[[Item], int], most: int) -> Iterator[list[Item]]:
    """Group consecutive items whose sizes sum to at most `most`; a larger item is alone."""
    group: list[Item] = []
    held = 0
    for item in items:
        if group and held + size(item) > most:
            yield group
            group, held = [], 0
        group.append(item)
        held += size(item)
    if group:
        yield group


def map_ahead(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    pool: Executor,
    ahead: int,
    size: Callable[[Result], int] | None = None,
    held: int = 0,
) -> Generator[Result]:
    """Ordered ``map(work, items)`` in a pool, with a bounded number of items in flight.

    Args:
        work: function applied to each item; its error is raised in place of its result.
        items: consumed one at a time, when there is room; file contents in them are bounded by
            `HELD_BYTES`, except for the last one.
        pool: executor; it is not shut down, but pending work is cancelled.
        ahead: maximum number of items in flight.
        size: size of a waiting result.
        held: sum of sizes of waiting results above which no item is started; 0 for no bound.
    """
    items, waiting = iter(items), deque[tuple[Future[Result], int]]()

    def has_room() -> bool:
        if len(waiting) >= ahead or sum(content for _, content in waiting) >= HELD_BYTES:
            return False
        if size is None or not held:
            return True
        done = (future for future, _ in waiting if future.done() and not future.exception())
        return sum(size(future.result()) for future in done) < held

    def begin() -> None:
        while has_room():
            try:
                item = next(items)
            except StopIteration:
                return
            waiting.append((pool.submit(work, item), _content(item)))

    try:
        begin()
        while waiting:
            result = waiting.popleft()[0].result()
            begin()
            yield result
    finally:
        for future, _ in waiting:
            future.cancel()


def _content(item: object) -> int:
    """Size in bytes of the file content in a job, a pair of a key and a clip."""
    clip = item[1] if isinstance(item, tuple) and len(item) == 2 else item
    if isinstance(clip, AudioClip) and isinstance(clip.source, bytes):
        return len(clip.source)
    return 0


def prefetch(make: Callable[[int], Batch], first: int, end: int) -> Iterator[Batch]:
    """Yield ``make(step)`` for the steps `first` <= step < `end`, each made one ahead in a thread.

    An error in `make` is raised in place of its batch.
    """
    with ThreadPoolExecutor(1) as pool, closing(map_ahead(make, range(first, end), pool, 1)) as got:
        yield from got
