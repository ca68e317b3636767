"""Work ahead of its use: bounded, with errors where their results would have come."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hear_axlstm.ahead import Threads, map_ahead, prefetch

AFTER_THE_MAIN_THREAD = """
import threading
from hear_axlstm.ahead import prefetch

def run():
    threading.main_thread().join()
    print(list(prefetch(lambda step: step, 0, 3)))

threading.Thread(target=run).start()
"""


def test_threads_work_after_the_main_thread_has_ended() -> None:
    script = [sys.executable, "-c", AFTER_THE_MAIN_THREAD]
    result = subprocess.run(script, capture_output=True, text=True)
    assert result.stdout == "[0, 1, 2]\n", result.stderr


def test_threads_are_as_many_as_needed_and_end() -> None:
    before = threading.active_count()
    with Threads(3) as pool:
        both = threading.Barrier(2)
        futures = [pool.submit(both.wait, timeout=10) for _ in range(2)]
        assert sorted(future.result() for future in futures) == [0, 1]
        assert threading.active_count() == before + 2
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result()
    assert threading.active_count() == before


def test_a_thread_that_cannot_start_is_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(RuntimeError, match="can't start new thread"), Threads(2) as pool:
        pool.submit(divmod, 1, 0)


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
