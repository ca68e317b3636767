"""Decoded clips, and which of them can be used."""

from __future__ import annotations

import errno

import av
import numpy as np

from hear_axlstm.audio.errors import may_pass
from hear_axlstm.audio.skipped import Skipped
from hear_axlstm.audio.usable import Decoded, compute_decoded, unusable_reason


def test_reasons_why_samples_are_unusable() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype("f4")
    assert unusable_reason(noise, 16_000) is None
    assert unusable_reason(noise[:399], 16_000) == "too short: 399 samples, but 400 are needed"
    for samples, kind in ((noise * 1e-5, "silent"), (noise * 1e17, "too loud")):
        assert Skipped("a", str(unusable_reason(samples, 16_000))).kind == kind
    assert str(unusable_reason(np.full(16_000, 0.3, "f4"), 16_000)).startswith("silent")


def test_errors_of_the_system_may_pass_but_not_those_of_a_file() -> None:
    assert may_pass(OSError(errno.ESTALE, "Stale file handle"))
    assert may_pass(OSError(errno.EIO, "Input/output error"))
    for lasting in (
        FileNotFoundError(errno.ENOENT, "No such file"),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EINVAL, "Invalid argument"),
        av.error.InvalidDataError(errno.EINVAL, "Invalid data"),
        None,
    ):
        assert not may_pass(lasting)


def test_skipped_clips_stay_in_place() -> None:
    clips = [Decoded(name, np.zeros(1, "f4")) for name in "abc"]
    skipped = Skipped("d", "silent")
    found = compute_decoded([clips[0], skipped, *clips[1:]], lambda batch: [c.id for c in batch])
    assert found == ["a", skipped, "b", "c"]
    assert compute_decoded([skipped], lambda _: 1 // 0) == [skipped]  # type: ignore[return-value]
