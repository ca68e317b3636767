"""Labeled tones, a small encoder, and settings that train on them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hear_axlstm import checkpoints
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.finetune.config import FinetuneConfig
from tests.helpers.labeled import SMALL, write_pitches


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tones.csv: ten noisy tones of each pitch, of different lengths, in two folds."""
    return write_pitches(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("encoder") / "model.safetensors"
    checkpoints.save(path, Embedder(SMALL), {}, torch.float32)
    return str(path)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hear_axlstm"


@pytest.fixture
def config(encoder: str) -> FinetuneConfig:
    return FinetuneConfig(
        model=encoder, device="cpu", precision="float32", test_fold="1", epochs=40
    )
