"""Triton's interpreter where there is no GPU, and data that several test files train on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

if not torch.cuda.is_available():  # before anything imports Triton, which decides on import
    os.environ["TRITON_INTERPRET"] = "1"

from hear_axlstm.data.pack import pack
from hear_axlstm.pretrain.loop import pretrain
from tests.helpers.runs import CONFIG


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of 60 steady chords, all in the lower quarter of the mel bins."""
    folder = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(0)
    seconds = np.arange(16_000 * 2.5) / 16_000
    for number in range(60):
        chord = sum(np.sin(2 * np.pi * rng.uniform(100, 800) * seconds) for _ in range(3))
        soundfile.write(folder / f"{number}.wav", 0.2 * chord, 16_000)
    pack(folder, folder / "pack", workers=1)
    return folder / "pack"


@pytest.fixture(scope="session")
def whole_run(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `CONFIG` that nothing disturbed."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    pretrain(CONFIG, tones, run)
    return run
