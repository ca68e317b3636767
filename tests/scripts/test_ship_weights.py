"""The script that makes weights ship."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from hear_axlstm import checkpoints
from hear_axlstm.checkpoints import checksum
from hear_axlstm.config import PRESETS, ModelConfig
from hear_axlstm.models.pretraining import MaskedPatchModel
from scripts import ship_weights


def test_a_run_ships_under_its_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(Path(__file__).parents[2] / "weights/manifest.json", tmp_path)
    monkeypatch.setattr(ship_weights, "FOLDER", tmp_path)
    monkeypatch.setitem(PRESETS, "axlstm_tiny", ModelConfig(dim=32, depth=1))
    model = MaskedPatchModel(PRESETS["axlstm_tiny"])
    checkpoints.save(tmp_path / "run.safetensors", model, {"hours": 1.0}, torch.float32)
    ship_weights.main(
        tmp_path / "run.safetensors", "axlstm_tiny", tag="open1h", trained_on="1 hour"
    )
    entry = json.loads((tmp_path / "manifest.json").read_text("utf-8"))["weights"]["axlstm_tiny"]
    shipped = tmp_path / entry["file"]
    assert entry["tag"] == "open1h" and entry["sha256"] == checksum.sha256(shipped)
    assert checkpoints.read(shipped)[0] == PRESETS["axlstm_tiny"]
    with pytest.raises(SystemExit, match="tag='audioset'"):
        ship_weights.main(shipped, "axlstm_tiny", tag="audioset", trained_on="1 hour")
    with pytest.raises(SystemExit, match="other settings than ssast_tiny"):
        ship_weights.main(shipped, "ssast_tiny", tag="open1h", trained_on="1 hour")
