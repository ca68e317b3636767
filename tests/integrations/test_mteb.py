"""The encoder, evaluated by mteb itself on a small task in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

mteb = pytest.importorskip("mteb")
pytest.importorskip("datasets")

from hear_axlstm.integrations.mteb import load_encoder  # noqa: E402
from tests.helpers.mteb_task import Tones  # noqa: E402


def test_mteb_evaluates_the_encoder(tmp_path: Path) -> None:
    encoder = load_encoder("axlstm_tiny")
    results = mteb.evaluate(encoder, tasks=[Tones()], cache=None, overwrite_strategy="always")
    assert results.task_results[0].get_score() == 1.0
    assert encoder.mteb_model_meta.embed_dim == 960
