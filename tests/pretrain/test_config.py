"""Settings: which stay through a run, and a batch that suits the corpus."""

import json
import logging
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

import hear_axlstm.cli.pretrain as cli
from hear_axlstm.data.corpus import Corpus, PackError
from hear_axlstm.files import sole_writer
from hear_axlstm.pretrain.config import PretrainConfig, TrainConfig, Variant, suited_batch
from hear_axlstm.pretrain.run import pretrain
from hear_axlstm.training.config import RunConfig
from hear_axlstm.training.resume import CHECKPOINTS, LOCK
from tests.helpers.runs import CONFIG


def test_a_resumed_run_may_change_how_it_is_executed_and_nothing_else() -> None:
    learned = {f.name for f in fields(TrainConfig)}
    executed = {f.name for f in fields(PretrainConfig)} - learned
    assert executed > {f.name for f in fields(RunConfig)}
    changes = {"device": "cpu", "micro_batch": 2, "log_every": 1, "eval_epochs": 9, "threads": 3}
    assert replace(CONFIG, **changes).conflicts(CONFIG.to_dict()) == []
    changed = replace(CONFIG, seed=1, ema=0.9, optimizer="muon", mix=0.1)
    assert changed.conflicts(CONFIG.to_dict()) == ["optimizer", "ema", "mix", "seed"]


def test_settings_that_a_run_did_not_have_are_the_defaults() -> None:
    earlier = CONFIG.to_dict()
    for name in ("schedule", "cooldown", "optimizer", "ema", "balance", "mix"):
        del earlier[name]
    assert PretrainConfig.from_dict(earlier) == CONFIG
    with pytest.raises(ValueError, match=r"look_every.*from another version"):
        PretrainConfig.from_dict({**earlier, "look_every": 5})


@pytest.mark.parametrize(
    ("clips", "batch"), [(1, 16), (230, 16), (2606, 64), (20_000, 512), (2_000_000, 1024)]
)
def test_small_corpora_get_small_batches_and_the_papers_rate(clips: int, batch: int) -> None:
    assert suited_batch(clips) == batch
    config = PretrainConfig().for_corpus(clips)
    assert (config.batch_size, config.peak_lr) == (batch, pytest.approx(6e-4))


def test_a_batch_too_large_is_named_with_a_better_one(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert PretrainConfig(batch_size=1024).for_corpus(230).batch_size == 1024
    assert "makes 22 steps in 100 epochs of 230 clips" in caplog.text
    assert "--batch-size 16 makes 1438" in caplog.text
    caplog.clear()
    PretrainConfig(batch_size=16).for_corpus(230)
    PretrainConfig(batch_size=1024).for_corpus(2_000_000)
    assert not caplog.text


def test_a_run_keeps_its_batch_when_resumed(tones: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, batch_size=None, lr=None, epochs=0.3, warmup_epochs=None)
    weights = pretrain(config, tones, tmp_path)
    assert pretrain(config, tones, tmp_path) == weights
    assert '"batch_size": 16' in (tmp_path / "config.json").read_text("utf-8")


def test_audio_that_is_packed_on_the_way_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for number in range(4):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * rng.standard_normal(8000), 16_000)
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    monkeypatch.setattr(cli, "train", lambda config, packed, run, resume: run)
    cli.pretrain(tmp_path, run=tmp_path / "run", variant=Variant(), config=CONFIG)
    printed = capsys.readouterr().out
    assert "4 clips" in printed and "WARNING: 20%, 1 of 5 left out" in printed


def test_a_run_keeps_the_pack_it_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    audio, run = tmp_path / "audio", tmp_path / "run"
    audio.mkdir()

    def start(source: Path = audio) -> Corpus:
        cli.pretrain(source, run=run, variant=Variant(), config=CONFIG)
        return Corpus(run / "pack")

    def add(name: str) -> None:
        noise = 0.1 * np.random.default_rng(0).standard_normal(8000)
        soundfile.write(audio / name, noise, 16_000)

    monkeypatch.setattr(cli, "train", lambda config, packed, run, resume: run)
    add("0.wav")
    assert len(start()) == 1
    add("1.wav")
    with sole_writer(run, LOCK), pytest.raises(BlockingIOError, match="by another process"):
        start()
    assert len(Corpus(run / "pack")) == 1, "another process is training on it"
    packed = start()
    assert len(packed) == 2, "nothing has been trained on it"
    (run / CHECKPOINTS).mkdir()
    (run / CHECKPOINTS / "step-00000001.safetensors").touch()
    (run / "config.json").write_text(json.dumps(CONFIG.to_dict()), "utf-8")
    add("2.wav")
    assert start().fingerprint == packed.fingerprint
    assert f"although {audio} has changed since" in caplog.text
    (tmp_path / "other").mkdir()
    shutil.copy(audio / "0.wav", tmp_path / "other")
    with pytest.raises(PackError, match="is a pack of"):
        start(tmp_path / "other")
