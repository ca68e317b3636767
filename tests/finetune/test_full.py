"""Fine-tuning of the whole encoder."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hear_axlstm import checkpoints
from hear_axlstm.finetune.batches import ClipBatches
from hear_axlstm.finetune.config import FinetuneConfig
from hear_axlstm.finetune.run import finetune
from hear_axlstm.training.logging import read_log
from hear_axlstm.training.signals import Interrupted
from hear_axlstm.training.step import Batch
from tests.helpers.runs import curve


def test_full_mode_starts_from_the_probe_and_keeps_the_best(
    tones: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    config = replace(config, mode="full", epochs=2, encoder_lr=1e-3, log_every=1)
    finetune(tones, tmp_path, config)
    lines = read_log(tmp_path / "log.jsonl")
    scored = [line for line in lines if "valid_accuracy" in line]
    assert [line["epoch"] for line in scored] == [0, 1, 2]
    best = max(line["valid_accuracy"] for line in scored)
    assert json.loads((tmp_path / "scores.json").read_text("utf-8"))["valid"]["accuracy"] == best
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[1] < losses[0]


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
