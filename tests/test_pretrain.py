"""The loop: it learns, resumes bit for bit, survives damage, and says what is wrong."""

import logging
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from hear_axlstm import weights
from hear_axlstm.config import MelConfig, ModelConfig
from hear_axlstm.data.pack import pack
from hear_axlstm.pretrain import loop
from hear_axlstm.pretrain.checkpoint import collect
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.pretrain.distributed import World
from hear_axlstm.pretrain.interrupt import Interrupted
from hear_axlstm.pretrain.keeper import list_checkpoints
from hear_axlstm.pretrain.log import read_log
from hear_axlstm.pretrain.loop import DivergedError, pretrain
from hear_axlstm.pretrain.optimizer import adamw, learning_rate
from hear_axlstm.pretrain.step import Learner

CPU = torch.device("cpu")
MODEL = ModelConfig(dim=32, depth=1)
CONFIG = PretrainConfig(
    model=MODEL,
    epochs=4,
    warmup_epochs=1,
    batch_size=8,
    lr=3e-3,
    device="cpu",
    precision="float32",
    log_every=3,
    checkpoint_every=4,
)  # 57 clips: 28 steps
TIMES = ("samples_per_second", "data_wait", "memory_gb")


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def whole_run(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    pretrain(CONFIG, tones, run)
    return run


def curve(run: Path) -> list[dict[str, float]]:
    """The log without what depends on the clock."""
    return [
        {k: v for k, v in line.items() if k not in TIMES} for line in read_log(run / "log.jsonl")
    ]


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> None:
    """Send this process a signal while it makes the batch of a step."""
    make = loop.CropDataset.batch

    def batch(self: loop.CropDataset, at: int) -> torch.Tensor:
        if at == step and self.batch_size == CONFIG.batch_size:
            signal.raise_signal(number)
        return make(self, at)

    monkeypatch.setattr(loop.CropDataset, "batch", batch)


def same_weights(one: Path, other: Path) -> bool:
    tensors, others = (weights.read(run / weights.FILE_NAME)[2] for run in (one, other))
    return all(torch.equal(tensors[name], others[name]) for name in tensors | others)


def test_the_loss_falls(tones: Path, tmp_path: Path) -> None:
    pretrain(replace(CONFIG, epochs=8, batch_size=4, lr=1e-2), tones, tmp_path)
    losses = [line["loss"] for line in curve(tmp_path) if "loss" in line]
    held_out = [line["held_out_loss"] for line in curve(tmp_path) if "held_out_loss" in line]
    assert losses[-1] < 0.5 * losses[0]
    assert len(held_out) == 8 and held_out[-1] < 0.5 * held_out[0]


def test_the_run_describes_itself(whole_run: Path) -> None:
    config, training, tensors = weights.read(whole_run / weights.FILE_NAME)
    assert config == MODEL
    assert (training["steps"], training["clips"]) == (28, 60)
    assert PretrainConfig.from_dict(training["config"]) == CONFIG
    assert training["held_out_loss"] == curve(whole_run)[-1]["held_out_loss"]
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert len(list_checkpoints(whole_run / "checkpoints")) == 2
    steps = [line["step"] for line in curve(whole_run) if "loss" in line]
    assert steps == [*range(3, 28, 3), 28]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_resumes_bit_for_bit(
    tones: Path,
    whole_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    before = signal.getsignal(number)
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="same command again"):
        stop_at(patch, 11, number)
        pretrain(CONFIG, tones, tmp_path)
    assert signal.getsignal(number) is before
    assert not (tmp_path / weights.FILE_NAME).exists()
    pretrain(CONFIG, tones, tmp_path)
    assert curve(tmp_path) == curve(whole_run)
    assert same_weights(tmp_path, whole_run)


def test_a_killed_run_loses_no_more_than_since_the_last_checkpoint(
    tones: Path, whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException): ...

    learn = loop.Learner.step
    calls = iter(range(100))

    def killed(self: Learner, *batch: object) -> bool:
        if next(calls) == 10:
            raise Killed
        return learn(self, *batch)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop.Learner, "step", killed)
        pretrain(CONFIG, tones, tmp_path)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 10, "lo')  # a line that was being written
    pretrain(CONFIG, tones, tmp_path)
    assert curve(tmp_path) == curve(whole_run)
    assert same_weights(tmp_path, whole_run)


@pytest.mark.parametrize("damage", ["cut off", "one bit"])
def test_a_damaged_checkpoint_is_passed_over(
    tones: Path,
    whole_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, 11, signal.SIGTERM)
        pretrain(CONFIG, tones, tmp_path)
    last = list_checkpoints(tmp_path / "checkpoints")[-1]
    content = bytearray(last.read_bytes())
    content[-100] ^= 1
    last.write_bytes(content[:-50] if damage == "cut off" else content)
    with caplog.at_level(logging.WARNING):
        pretrain(CONFIG, tones, tmp_path)
    assert f"{last} is damaged" in caplog.text
    assert same_weights(tmp_path, whole_run)


def test_a_finished_run_is_left_alone(tones: Path, whole_run: Path) -> None:
    log = (whole_run / "log.jsonl").read_bytes()
    assert pretrain(CONFIG, tones, whole_run) == whole_run / weights.FILE_NAME
    assert (whole_run / "log.jsonl").read_bytes() == log


def test_what_does_not_fit_together_is_refused(
    tones: Path, whole_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"other settings \(seed\)"):
        pretrain(replace(CONFIG, seed=1), tones, whole_run)
    with pytest.raises(ValueError, match="already holds a run"):
        pretrain(CONFIG, tones, whole_run, resume="never")
    with pytest.raises(ValueError, match="no finished pack"):
        pretrain(CONFIG, tmp_path, tmp_path / "run")
    other_mel = replace(MODEL, mel=MelConfig(f_min=60.0))
    with pytest.raises(ValueError, match="pack the audio again"):
        pretrain(replace(CONFIG, model=other_mel), tones, tmp_path / "run")
    with pytest.raises(ValueError, match="can't be used"):
        pretrain(replace(CONFIG, device="abacus"), tones, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="no weights at 'nowhere'"):
        pretrain(replace(CONFIG, init="nowhere"), tones, tmp_path / "run")
    assert not (tmp_path / "run").exists(), "nothing is written for a run that can't start"


@pytest.mark.parametrize(
    "settings",
    [{"warmup_epochs": 100.0}, {"batch_size": 0}, {"lr": -1.0}, {"seed": -1}, {"micro_batch": 0}],
)
def test_settings_that_make_no_sense(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        PretrainConfig(**settings)


def test_learning_rate_follows_the_paper() -> None:
    assert PretrainConfig().peak_lr == pytest.approx(6e-4)
    rates = [learning_rate(step, 100, 10, 1.0) for step in range(100)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90)
    for rate in rates[10:]:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        cosine.step()


def test_only_weights_decay() -> None:
    model = nn.ModuleDict({"linear": nn.Linear(3, 4), "norm": nn.LayerNorm(4)})
    decayed, spared = adamw(model, CONFIG).param_groups
    assert [p.shape for p in decayed["params"]] == [(4, 3)] and decayed["weight_decay"] == 0.05
    assert len(spared["params"]) == 3 and spared["weight_decay"] == 0.0


class Regression(nn.Module):
    """A model small enough to check a step by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, mel: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (self.linear(mel) - 1).square().mean()


def regression(config: PretrainConfig = CONFIG) -> Learner:
    torch.manual_seed(0)
    return Learner(Regression(), config, World(CPU))


def state(learner: Learner) -> list[torch.Tensor]:
    tensors = collect(learner.model, learner.optimizer, {})
    return [tensor.clone() for tensor in tensors.values()]


def test_micro_batches_add_up_to_the_batch() -> None:
    mel, mask = torch.randn(8, 5, 4), torch.zeros(8, 5, dtype=torch.bool)
    learners = [regression(replace(CONFIG, micro_batch=size)) for size in (8, 3)]
    for learner in learners:
        learner.step(mel, mask, rate=0.01)
    whole, parts = (state(learner) for learner in learners)
    torch.testing.assert_close(whole, parts)
    assert learners[0].take_interval() == pytest.approx(learners[1].take_interval())


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    learner = regression()
    mel, mask = torch.randn(8, 5, 4), torch.zeros(8, 5, dtype=torch.bool)
    learner.step(mel, mask, rate=0.01)
    before = state(learner)
    learner.step(mel * torch.nan, mask, rate=0.01)
    learner.step(mel * torch.inf, mask, rate=0.01)
    assert all(map(torch.equal, state(learner), before))
    sums = learner.take_interval()
    assert (sums["skipped"], sums["in_a_row"]) == (2, 2) and np.isfinite(sums["loss"])
    learner.step(mel, mask, rate=0.01)
    assert not all(map(torch.equal, state(learner), before))
    assert learner.take_interval()["in_a_row"] == 0


def test_a_diverged_run_stops(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = loop.CropDataset.batch
    monkeypatch.setattr(loop.CropDataset, "batch", lambda self, at: make(self, at) * torch.nan)
    with pytest.raises(DivergedError, match="Lower the learning rate"):
        pretrain(replace(CONFIG, stop_after_bad_steps=4), tones, tmp_path)
    assert read_log(tmp_path / "log.jsonl")[-1]["step"] == 6  # the first line after the fourth


def test_a_smaller_micro_batch_is_tried_when_memory_runs_out() -> None:
    learner = regression()
    learner.micro_batch = 8
    forward = learner.model.forward

    def small_memory(mel: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if len(mel) > 2:
            raise torch.OutOfMemoryError
        return forward(mel, mask)

    learner.model.forward = small_memory  # type: ignore[method-assign]
    assert learner.step(torch.randn(8, 5, 4), torch.zeros(8, 5, dtype=torch.bool), rate=0.01)
    assert learner.micro_batch == 2
