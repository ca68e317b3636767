"""Background computation ahead of the use of its results, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import closing
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Batch = TypeVar("Batch")

MAX_INPUT_BYTES = 1 << 28  # of file contents in items that are in flight


class Threads(Executor):
    """A pool of daemon threads that also works after the main thread has ended.

    ThreadPoolExecutor refuses work then, although other threads may still be running.

    Args:
        most: maximum number of threads.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._threads: list[Thread] = []
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Start a call as soon as a thread is free."""
        future: Future[Result] = Future()
        self._work.put((future, partial(fn, *args, **kwargs)))
        if len(self._threads) < self._most:
            thread = Thread(target=self._serve, daemon=True)
            thread.start()
            self._threads.append(thread)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads after the calls that were submitted."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _serve(self) -> None:
        while (job := self._work.get()) is not None:
            complete(*job)
            del job  # else an idle thread would keep its last result


def complete(future: Future[Result], work: Callable[[], Result]) -> None:
    """Set a future's result or exception by calling `work`, unless it was cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def map_ahead(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    pool: Executor,
    max_in_flight: int,
    size: Callable[[Result], int] | None = None,
    max_waiting: int = 0,
    input_bytes: Callable[[Item], int] | None = None,
) -> Generator[Result]:
    """Ordered ``map(work, items)`` in a pool, with a bounded number of items in flight.

    Args:
        work: function applied to each item; its error is raised in place of its result.
        items: consumed one at a time, when there is room.
        pool: executor; it is not shut down, but pending work is cancelled.
        max_in_flight: maximum number of items in flight.
        size: size of a waiting result.
        max_waiting: sum of sizes of waiting results above which no item is started; 0 for no bound.
        input_bytes: bytes of file content in an item; if their sum reaches `MAX_INPUT_BYTES`, no
            further item is started.
    """
    items, waiting = iter(items), deque[tuple[Future[Result], int]]()

    def has_room() -> bool:
        if len(waiting) >= max_in_flight or sum(n for _, n in waiting) >= MAX_INPUT_BYTES:
            return False
        if size is None or not max_waiting:
            return True
        done = (future for future, _ in waiting if future.done() and not future.exception())
        return sum(size(future.result()) for future in done) < max_waiting

    def begin() -> None:
        while has_room():
            try:
                item = next(items)
            except StopIteration:
                return
            waiting.append((pool.submit(work, item), input_bytes(item) if input_bytes else 0))

    try:
        begin()
        while waiting:
            result = waiting.popleft()[0].result()
            begin()
            yield result
    finally:
        for future, _ in waiting:
            future.cancel()


def groups(items: Iterable[Item], size: Callable[[Item], int], most: int) -> Iterator[list[Item]]:
    """Group consecutive items whose sizes sum to at most `most`; larger items get their own."""
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


def prefetch(make: Callable[[int], Batch], first: int, end: int) -> Iterator[Batch]:
    """Yield ``make(step)`` for the steps `first` <= step < `end`, each made one ahead in a thread.

    An error in `make` is raised in place of its batch.
    """
    with Threads(1) as pool, closing(map_ahead(make, range(first, end), pool, 1)) as got:
        yield from got
