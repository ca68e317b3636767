"""Scores during fine-tuning, and the classifier that is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from hear_axlstm.finetune.config import FinetuneConfig
from hear_axlstm.finetune.run import finetune
from hear_axlstm.training.logging import read_log


def test_full_mode_starts_from_the_probe_and_keeps_the_best(
    tones: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    config = replace(config, mode="full", epochs=2, encoder_lr=1e-3, log_every=1)
    (tmp_path / "config.json").write_text('{"mode": "full", "clips": "tones"}', "utf-8")
    for name in ("log", "head"):  # of a run that was killed before its first checkpoint
        scored = '{"step": 0, "epoch": 0, "valid_accuracy": 2.0, "valid_loss": 0.0}\n'
        (tmp_path / f"{name}.jsonl").write_text(scored, "utf-8")
    finetune(tones, tmp_path, config)
    head = read_log(tmp_path / "head.jsonl")
    assert head[0]["step"] == 1 and len(head) > config.epochs, "as long as a head needs"
    lines = read_log(tmp_path / "log.jsonl")
    scored = [line for line in lines if "valid_accuracy" in line]
    assert [line["epoch"] for line in scored] == [0, 1, 2]
    best = max(line["valid_accuracy"] for line in scored)
    assert json.loads((tmp_path / "scores.json").read_text("utf-8"))["valid"]["accuracy"] == best
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[1] < losses[0]
