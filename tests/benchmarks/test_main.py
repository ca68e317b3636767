"""`python -m benchmarks` compares models of equal weights."""

from __future__ import annotations

import pytest
import torch

from benchmarks import __main__ as benchmark


@pytest.mark.parametrize("name", ["axlstm_tiny", "ssast_tiny"])
def test_embeddings_of_both_forms_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "CLIP_SECONDS", 2)
    peaks = dict.fromkeys(benchmark.PRECISIONS, 1e9)
    row = benchmark._embedding(name, 1, 1, torch.device("cpu"), peaks)
    *_, steps, scenes = row
    assert min(float(steps), float(scenes)) > 0.999
