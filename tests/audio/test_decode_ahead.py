"""Decoding ahead: in order, bounded, with errors where their results would have come."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hear_axlstm.audio.decode_ahead import Decoded, decode_ahead, fault, map_ahead, prefetch
from hear_axlstm.audio.skipped import Skipped
from hear_axlstm.audio.sources import AudioClip


def test_results_come_in_order_with_their_keys() -> None:
    clips = [(n, AudioClip(str(n), "")) for n in range(20)]
    found = decode_ahead(clips, lambda clip: Decoded(clip.id, np.zeros(1, "f4")), threads=3)
    assert [(key, item.id) for key, item in found] == [(n, str(n)) for n in range(20)]


def test_no_more_is_begun_while_enough_waits() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        return 10

    with ThreadPoolExecutor(1) as pool:
        results = map_ahead(work, range(100), pool, 50, size=lambda result: result, held=20)
        next(results)
        pool.submit(threading.Event().is_set).result()  # all that was submitted is done
        next(results)
        results.close()
    assert len(begun) < 60  # one round of `ahead` at the most before any is finished


def test_an_error_comes_where_its_result_would() -> None:
    results = prefetch(lambda step: 1 // (2 - step), 0, 4)
    assert next(results) == 0 and next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_faults_of_samples() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype("f4")
    assert fault(noise, 16_000) is None
    assert fault(noise[:399], 16_000) == "too short: 399 samples, at least 400 are needed"
    for samples, kind in ((noise * 1e-5, "silent"), (noise * 1e17, "too loud")):
        assert Skipped("a", str(fault(samples, 16_000))).kind == kind
    assert str(fault(np.full(16_000, 0.3, "f4"), 16_000)).startswith("silent")
