"""Triton's interpreter where there is no GPU, and data that several test files train on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():  # before anything imports Triton, which decides on import
    os.environ["TRITON_INTERPRET"] = "1"

from hear_axlstm.pretrain.run import pretrain
from tests.helpers.runs import CONFIG, write_tones


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of 60 steady chords, all in the lower quarter of the mel bins."""
    return write_tones(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="session")
def whole_run(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `CONFIG` that nothing disturbed."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    pretrain(CONFIG, tones, run)
    return run
