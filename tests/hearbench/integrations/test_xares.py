"""Any HEAR module by X-ARES' own checker."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

checker = pytest.importorskip("xares.audio_encoder_checker")

from hearbench.integrations.xares import HearSystem  # noqa: E402
from tests.helpers import system_checkpoints as write  # noqa: E402

HOPS = {"passt": 50.0, "beats": 160.0, "ssast": 100.0}


@pytest.mark.parametrize("name", HOPS)
def test_the_checker_accepts_adapters(name: str, tmp_path: Path) -> None:
    path = write.WRITERS[name](tmp_path)
    encoder = type("TestEncoder", (HearSystem,), {"spec": f"{name}@{path}"})()
    assert checker.check_audio_encoder(encoder)
    assert encoder.hop_size_in_ms == pytest.approx(HOPS[name])
    assert torch.equal(encoder(torch.ones(9_000)), encoder(torch.ones(1, 9_000)))
