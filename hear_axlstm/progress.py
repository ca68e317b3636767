"""Progress of long work: a bar on a terminal, one line a minute in a log file or a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, Generic, TypeVar

from tqdm import tqdm

T = TypeVar("T")

SECONDS_A_LINE = 60.0
DELAY = 3.0  # seconds before a bar appears in calls that are usually short


class LineProgress(Generic[T]):
    """Subset of tqdm that writes lines instead of redrawing a bar."""

    def __init__(
        self,
        iterable: Iterable[T] | None = None,
        desc: str = "",
        total: int | None = None,
        unit: str = "it",
        initial: int = 0,
        leave: bool = True,
    ) -> None:
        self.total = len(iterable) if total is None and isinstance(iterable, Sized) else total
        self.n = initial
        self._iterable, self._desc, self._unit, self._leave = iterable, desc, unit, leave
        self._initial, self._postfix = initial, ""
        self._start = self._written = time.monotonic()
        self._is_open = True

    def __iter__(self) -> Iterator[T]:
        with self:
            for item in self._iterable or ():
                yield item
                self.update()

    def __enter__(self) -> LineProgress[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def update(self, n: int = 1) -> None:
        """Count `n` more items as done."""
        self.n += n
        if time.monotonic() - self._written >= SECONDS_A_LINE:
            self._write()

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Set the text at the end of subsequent lines."""
        self._postfix = text

    def close(self) -> None:
        """Write the last line, unless nothing was done or the bar would have vanished."""
        if self._is_open and self._leave and self.n > self._initial:
            self._write()
        self._is_open = False

    def _write(self) -> None:
        self._written = time.monotonic()
        total = "" if self.total is None else f"/{self.total:,}"
        elapsed = tqdm.format_interval(self._written - self._start)
        unit = self._unit if self.n == 1 and self.total in (None, 1) else f"{self._unit}s"
        parts = [f"{self.n:,}{total} {unit}", elapsed, *filter(None, [self._postfix])]
        sys.stderr.write(f"{self._desc}: {', '.join(parts)}\n")
        sys.stderr.flush()


def progress(
    iterable: Iterable[T] | None = None,
    desc: str = "",
    *,
    total: int | None = None,
    unit: str = "it",
    initial: int = 0,
    leave: bool = True,
    delay: float = 0.0,
    disable: bool = False,
) -> Any:
    """Show progress of an iterable, as a bar on a terminal and as lines elsewhere.

    Args:
        iterable: items to iterate over; without it, call `update`.
        desc: description of the work, e.g. "embedding".
        total: number of items, if known and `iterable` has no length.
        unit: unit of the items, e.g. "clip".
        initial: number of items already done.
        leave: keep the bar, or the last line, at the end.
        delay: seconds before the bar appears.
        disable: show nothing.

    Returns:
        A tqdm, or a `LineProgress` with the same methods.
    """
    if not (disable or sys.stderr.isatty()):
        lasts = leave and not delay
        return LineProgress(iterable, desc, total, unit, initial, lasts)
    return tqdm(
        iterable,
        desc,
        total,
        leave,
        unit=unit,
        initial=initial,
        delay=delay,
        disable=disable,
        dynamic_ncols=True,
    )
