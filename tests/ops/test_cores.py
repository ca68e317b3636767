"""Work on the cores of a CPU, in threads in which torch computes with one thread."""

import faulthandler
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from itertools import count
from threading import Event, Thread, Timer, current_thread
from threading import enumerate as enumerate_threads

import pytest
import torch

from hear_axlstm import ahead
from hear_axlstm.ops import cores
from hear_axlstm.ops.cores import on_each_core, thread_count, without_torch_threads
from tests.helpers.platforms import posix_only
from tests.helpers.threads import another_thread_sets, torch_threads


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    with torch_threads(3):
        yield
        assert torch.get_num_threads() == 3


def test_threads_are_left_as_they_were() -> None:
    """Also for threads that start while others work alone."""
    seen: list[int] = []

    def work(item: int) -> int:
        assert started.wait(60)
        return torch.get_num_threads()

    def begin() -> None:
        seen.append(torch.get_num_threads())
        started.set()

    started, later = Event(), Timer(0.5, begin)
    later.start()
    assert on_each_core(work, range(5)) == [1] * 5
    assert torch.get_num_threads() == 3 and seen == [3]


def test_a_new_thread_waits_for_the_number_while_workers_start() -> None:
    with ThreadPoolExecutor(1) as pool:
        with cores._starting:
            torch.set_num_threads(1)
            seen = pool.submit(thread_count)
            time.sleep(0.1)
            torch.set_num_threads(3)
        assert seen.result() == 3


def test_workers_are_single_threaded_although_another_thread_sets_the_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cores, "_idle", [])
    another_thread_sets(2, monkeypatch)
    assert on_each_core(lambda _: torch.get_num_threads(), range(5)) == [1] * 5


def test_threads_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Setting their number would be seen by the threads that others start meanwhile."""

    def names() -> set[str]:
        return set(
            without_torch_threads(lambda: on_each_core(lambda _: current_thread().name, range(9)))
        )

    names()
    monkeypatch.delattr(torch, "set_num_threads")
    assert names() | names() <= {thread.name for thread in enumerate_threads()}


@posix_only
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_starts_its_own_threads() -> None:
    def work() -> list[int]:
        return without_torch_threads(lambda: on_each_core(lambda item: item, range(5)))

    work()
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(30, exit=True)
        alone = torch.get_num_threads() == 1 and work() == list(range(5))
        torch.set_num_threads(3)
        os._exit(0 if alone and work() == list(range(5)) else 1)
    assert os.waitpid(child, 0)[1] == 0


@posix_only
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_while_workers_start_does_not_wait_for_them() -> None:
    with cores._starting:
        child = os.fork()
        if child == 0:
            os._exit(0 if cores._starting.acquire(timeout=5) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_errors_on_a_core_are_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        on_each_core(lambda item: 1 // item, range(3))
    with pytest.raises(ZeroDivisionError):
        without_torch_threads(lambda: 1 // 0)


def test_work_without_torch_threads_can_use_all_cores() -> None:
    def work() -> tuple[int, int, list[tuple[int, int, str]]]:
        without_torch_threads(lambda: seen.append(current_thread().name))  # the same thread
        seen.append(current_thread().name)
        return torch.get_num_threads(), thread_count(), on_each_core(inside, range(9))

    def inside(item: int) -> tuple[int, int, str]:
        time.sleep(0.01)
        return torch.get_num_threads(), thread_count(), current_thread().name

    seen: list[str] = []
    mine, shared, others = without_torch_threads(work)
    assert (mine, shared) == (1, 3)
    assert [other[:2] for other in others] == [(1, 1)] * 9
    names = {name for *_, name in others}
    assert len(set(seen)) == 1 and len(names) == 3 and not names & set(seen)


def test_later_threads_have_their_number_after_nested_work() -> None:
    without_torch_threads(lambda: on_each_core(lambda item: item, range(9)))
    with ThreadPoolExecutor() as pool:
        assert pool.submit(torch.get_num_threads).result() == 3
        assert pool.submit(thread_count).result() == 3


def test_a_thread_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(Thread):
        def start(self) -> None:
            if self._target.__name__ == "_serve" and next(started) == 1:
                raise RuntimeError("can't start new thread")
            super().start()

    started, before = count(), set(enumerate_threads())
    monkeypatch.setattr(cores, "_idle", [])
    monkeypatch.setattr(ahead, "Thread", Refused)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        on_each_core(lambda item: item, range(9))
    assert set(enumerate_threads()) <= before  # those that had started have ended
    with ThreadPoolExecutor() as pool:
        assert pool.submit(torch.get_num_threads).result() == 3


def test_it_may_be_limited_to_fewer() -> None:
    assert without_torch_threads(thread_count, threads=1) == 1


@pytest.mark.parametrize("enabled", [False, True])
def test_gradients_are_enabled_where_the_caller_has_them(enabled: bool) -> None:
    def inside(_: int) -> bool:
        return torch.is_grad_enabled()

    with torch.set_grad_enabled(enabled):
        assert on_each_core(inside, range(3)) == [enabled] * 3
        assert without_torch_threads(lambda: on_each_core(inside, range(3))) == [enabled] * 3


@posix_only
def test_an_interruption_drops_the_work_that_waits() -> None:
    done: list[int] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            on_each_core(inside, range(500))
        except BaseException as error:
            errors.append(error)
            raise

    def inside(item: int) -> None:
        if item == 2:
            time.sleep(0.2)  # until the main thread waits
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        done.append(item)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # some shells ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            without_torch_threads(work)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(done) < 500 and isinstance(errors[0], CancelledError)
