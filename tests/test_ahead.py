"""Work ahead of its use: bounded, with errors where their results would have come."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hear_axlstm.ahead import map_ahead, prefetch


def test_no_more_is_begun_while_enough_waits() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        return 10

    with ThreadPoolExecutor(1) as pool:
        results = map_ahead(work, range(100), pool, 50, size=lambda result: result, max_waiting=20)
        next(results)
        pool.submit(threading.Event().is_set).result()  # all that was submitted is done
        next(results)
        results.close()
    assert len(begun) < 60  # one round of `max_in_flight` at the most before any is finished


def test_an_error_comes_where_its_result_would() -> None:
    results = prefetch(lambda step: 1 // (2 - step), 0, 4)
    assert next(results) == 0 and next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
