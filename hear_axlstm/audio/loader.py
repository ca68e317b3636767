"""The one decode-ahead loader: files become samples in the background, in order, bounded.

`map_ahead` is the loop. `decode_ahead` decodes clips by it in threads, packing extracts features by
it in processes, and training makes its next batch by it.
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
from hear_axlstm.audio.listing import Skipped
from hear_axlstm.audio.sources import AudioClip

AHEAD = 8  # clips in flight for each worker
LONGEST = 3600.0  # seconds; bounds the memory of a worker
SILENCE = 1e-4  # peak in full scale, -80 dB: three steps of 16-bit audio
MAX_AMPLITUDE = 1e15  # the power of louder samples overflows float32
WINDOW_SECONDS = 0.025  # of the front end; what is shorter has no spectrum
HELD_SAMPLES = 16_000 * 600  # decoded and waiting: no more clips are begun
HELD_BYTES = 1 << 28  # of files read from tars that are in flight

Key = TypeVar("Key")
Item = TypeVar("Item")
Result = TypeVar("Result")
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Decoded:
    """The samples of one clip."""

    id: str
    waveform: NDArray[np.float32]
    """Mono samples ``[n]``."""


def decode(
    clip: AudioClip | Skipped, sample_rate: int, longest: float | None = LONGEST
) -> Decoded | Skipped:
    """The samples of a clip, or why there are none; never raises."""
    if isinstance(clip, Skipped):
        return clip
    try:
        return Decoded(clip.id, clip.decode(sample_rate, longest))
    except AudioError as error:
        name = printable(clip.source) if isinstance(clip.source, str) else "audio"
        return Skipped(clip.id, str(error).removeprefix(f"{name}: "))
    except Exception as error:  # one strange file must not stop millions
        return Skipped(clip.id, f"fails with {type(error).__name__} ({error})")


def fault(waveform: NDArray[np.float32], sample_rate: int) -> str | None:
    """Why samples are not worth an embedding: too short, silent, or too loud; None if they are."""
    shortest = round(WINDOW_SECONDS * sample_rate)
    if waveform.size < shortest:
        return f"too short: {waveform.size} samples, one window needs {shortest}"
    if np.abs(waveform - waveform.mean(dtype=np.float64)).max() < SILENCE:
        return "silent: its peak is below -80 dB of full scale"
    if np.abs(waveform).max() > MAX_AMPLITUDE:
        return "too loud: its power is not a finite number, export it again"
    return None


def decode_usable(
    clip: AudioClip | Skipped, sample_rate: int, longest: float | None = LONGEST
) -> Decoded | Skipped:
    """As `decode`, but clips with a `fault` are skipped as well."""
    found = decode(clip, sample_rate, longest)
    if isinstance(found, Decoded) and (reason := fault(found.waveform, sample_rate)):
        return Skipped(found.id, reason)
    return found


def decode_ahead(
    jobs: Iterable[tuple[Key, AudioClip | Skipped]],
    work: Callable[[AudioClip | Skipped], Decoded | Skipped],
    threads: int,
    held_samples: int = HELD_SAMPLES,
) -> Generator[tuple[Key, Decoded | Skipped]]:
    """Decode clips in threads, in order.

    Args:
        jobs: clips, each with a key that comes back with it.
        work: decodes one clip, e.g. by `decode`.
        threads: number of files that are decoded at the same time.
        held_samples: number of decoded samples that may wait; bounds memory.
    """

    def keyed(job: tuple[Key, AudioClip | Skipped]) -> tuple[Key, Decoded | Skipped]:
        return job[0], work(job[1])

    def samples(result: tuple[Key, Decoded | Skipped]) -> int:
        return result[1].waveform.size if isinstance(result[1], Decoded) else 0

    with ThreadPoolExecutor(threads) as pool:
        yield from map_ahead(keyed, jobs, pool, AHEAD * threads, samples, held_samples)


def map_ahead(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    pool: Executor,
    ahead: int,
    size: Callable[[Result], int] | None = None,
    held: int = 0,
) -> Generator[Result]:
    """Like ``map(work, items)`` in a pool, in order, and never far ahead of what is taken.

    Args:
        work: what is done with each item; its error is raised where its result would have come.
        items: taken one at a time, when there is room; contents of files that come with them are
            bounded by `HELD_BYTES`, but for the last one.
        pool: does the work; not shut down, but what has not begun is cancelled.
        ahead: items that are in flight at the most.
        size: how much a result that waits counts.
        held: sum of sizes that may wait before more items are begun; 0 sets no bound.
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
    """Bytes of a file's content inside a job, a pair of a key and a clip."""
    clip = item[1] if isinstance(item, tuple) and len(item) == 2 else item
    if isinstance(clip, AudioClip) and isinstance(clip.source, bytes):
        return len(clip.source)
    return 0


def prefetch(make: Callable[[int], Batch], first: int, end: int) -> Iterator[Batch]:
    """Yield ``make(step)`` for the steps `first` <= step < `end`, each made one ahead in a thread.

    An error in `make` is raised where its batch would have come.
    """
    with ThreadPoolExecutor(1) as pool, closing(map_ahead(make, range(first, end), pool, 1)) as got:
        yield from got
