"""Fine-tuning of the whole encoder."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hear_axlstm import checkpoints
from hear_axlstm.finetune.batches import ClipBatches
from hear_axlstm.finetune.config import FinetuneConfig
from hear_axlstm.finetune.run import finetune
from hear_axlstm.training.signals import Interrupted
from hear_axlstm.training.step import Batch
from tests.helpers.labeled import rows_of
from tests.helpers.runs import curve


def test_an_interrupted_run_goes_on_exactly(
    tones: Path, config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, mode="full", epochs=2, batch_size=4)
    finetune(tones, tmp_path / "whole", config)
    make = ClipBatches.batch

    def interrupted(batches: ClipBatches, step: int) -> Batch:
        if step == 4:
            signal.raise_signal(signal.SIGINT)
        return make(batches, step)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match=r"step [34] of 6"):
        patch.setattr(ClipBatches, "batch", interrupted)
        finetune(tones, tmp_path / "cut", config)
    finetune(tones, tmp_path / "cut", config)
    assert curve(tmp_path / "whole") == curve(tmp_path / "cut")
    one, other = (
        checkpoints.read(tmp_path / n / "classifier.safetensors")[2] for n in ("whole", "cut")
    )
    assert all(torch.equal(one[name], other[name]) for name in one | other)


def test_a_finished_run_is_kept_without_its_checkpoints(
    tones: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    config = replace(config, mode="full", epochs=1, batch_size=4, seed=20_241_130_123_456)
    scores = finetune(tones, tmp_path, config).scores
    shutil.rmtree(tmp_path / "checkpoints")
    trained = checkpoints.read(tmp_path / "classifier.safetensors")[2]
    assert finetune(tones, tmp_path, config).scores == scores
    kept = checkpoints.read(tmp_path / "classifier.safetensors")[2]
    assert all(torch.equal(kept[name], trained[name]) for name in trained)


def test_a_finished_run_has_the_classes_of_its_clips(
    tones: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    audio = shutil.copytree(tones.parent, tmp_path / "audio")
    broken = [row for row in rows_of(audio / tones.name) if row["label"] == "low"]
    contents = {row["path"]: row["path"].read_bytes() for row in broken}  # type: ignore[attr-defined]
    config = replace(config, mode="full", epochs=1, batch_size=4, skip_broken=True)
    for path in contents:
        path.write_bytes(b"no audio")  # type: ignore[attr-defined]
    finetune(audio / tones.name, tmp_path / "run", config)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    for path, content in contents.items():
        path.write_bytes(content)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="a classifier of other classes"):
        finetune(audio / tones.name, tmp_path / "run", config)
