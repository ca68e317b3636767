"""Work that fails, hangs or dies becomes an error, and leaves nothing running."""

from __future__ import annotations

import math
import os
import time
from functools import partial

import pytest

from benchmarks.gpu.bounded import Worker, WorkError


def test_a_worker_answers_until_something_fails() -> None:
    worker = Worker({})
    assert [worker.run(partial(math.sqrt, n), 60) for n in (4, 9)] == [2, 3]
    with pytest.raises(WorkError, match="ValueError"):
        worker.run(partial(math.sqrt, -1), 60)
    with pytest.raises(WorkError, match="its process"):  # closed by the error
        worker.run(partial(math.sqrt, 4), 60)


@pytest.mark.parametrize(
    ("work", "seconds", "message"),
    [
        (partial(time.sleep, 60), 0.2, "stopped after"),
        (partial(os._exit, 3), 60, "ended with exit code 3"),
    ],
)
def test_what_hangs_or_dies_is_ended(work: partial, seconds: float, message: str) -> None:
    worker = Worker({})
    pid = worker.run(os.getpid, 60)
    with pytest.raises(WorkError, match=message):
        worker.run(work, seconds)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
