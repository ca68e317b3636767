"""The loop: it learns, resumes bit for bit, and says what is wrong."""

import math
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hear_axlstm import checkpoints
from hear_axlstm.config import MelConfig
from hear_axlstm.data.dataset import CropDataset
from hear_axlstm.models.pretraining import MaskedPatchModel
from hear_axlstm.ops import torch_impl
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.pretrain.run import pretrain
from hear_axlstm.training.average import WeightAverage
from hear_axlstm.training.checkpoint_manager import list_checkpoints
from hear_axlstm.training.checkpoints import load, save
from hear_axlstm.training.device import choose_device
from hear_axlstm.training.logging import read_log
from hear_axlstm.training.signals import SIGNALS, Interrupted
from hear_axlstm.training.step import TrainStep
from hear_axlstm.training.trainer import DivergedError
from tests.helpers.runs import CONFIG, MODEL, curve, same_weights, stop_at


def test_the_loss_falls(tones: Path, tmp_path: Path) -> None:
    pretrain(replace(CONFIG, epochs=8, batch_size=4, lr=1e-2), tones, tmp_path)
    losses = [line["loss"] for line in curve(tmp_path) if "loss" in line]
    validation = [line["validation_loss"] for line in curve(tmp_path) if "validation_loss" in line]
    assert losses[-1] < 0.5 * losses[0]
    assert len(validation) == 8 and validation[-1] < 0.5 * validation[0]


def test_the_run_describes_itself(whole_run: Path) -> None:
    config, training, tensors = checkpoints.read(whole_run / checkpoints.FILE_NAME)
    assert config == MODEL
    assert (training["steps"], training["clips"]) == (28, 60)
    assert PretrainConfig.from_dict(training["config"]) == CONFIG
    assert training["validation_loss"] == curve(whole_run)[-1]["validation_loss"]
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert len(list_checkpoints(whole_run / "checkpoints")) == 2
    steps = [line["step"] for line in curve(whole_run) if "loss" in line]
    assert steps == [*range(3, 28, 3), 28]


def test_a_run_can_be_used_before_it_ends(whole_run: Path, tmp_path: Path) -> None:
    unfinished = shutil.copytree(whole_run, tmp_path / "run")
    (unfinished / checkpoints.FILE_NAME).unlink()
    newest = list_checkpoints(unfinished / "checkpoints")[-1]
    assert checkpoints.locate(str(unfinished)) == newest
    config, training, tensors = checkpoints.read(newest)
    finished, _, final = checkpoints.read(whole_run / checkpoints.FILE_NAME)
    assert (config, training["steps"]) == (finished, 28)
    assert tensors.keys() == final.keys()
    assert all(torch.equal(tensor, final[name]) for name, tensor in tensors.items())
    state = load(newest)
    names = WeightAverage(MaskedPatchModel(MODEL), decay=0.9).tensors
    average = {f"average.{name}": torch.ones_like(t) for name, t in names.items()}
    save(newest, replace(state, tensors={**state.tensors, **average}))
    averaged = checkpoints.read(newest)[2]
    assert averaged.keys() == final.keys()
    assert all((tensor == 1).all() for tensor in averaged.values())
    deeper = {**state.settings, "model": replace(MODEL, depth=MODEL.depth + 1).to_dict()}
    save(newest, replace(state, settings=deeper))
    with pytest.raises(ValueError, match=r"do not fit its settings.*is missing"):
        checkpoints.read(newest)
    save(newest, state)
    newest.write_bytes(newest.read_bytes()[:-8] + bytes(8))
    with pytest.raises(ValueError, match=r"checksum does not match.*another checkpoint"):
        checkpoints.read(newest)


@pytest.mark.parametrize("number", SIGNALS)
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
    assert not (tmp_path / checkpoints.FILE_NAME).exists()
    pretrain(CONFIG, tones, tmp_path)
    assert curve(tmp_path) == curve(whole_run)
    assert same_weights(tmp_path, whole_run)


def test_a_finished_run_is_left_alone(tones: Path, whole_run: Path) -> None:
    log = (whole_run / "log.jsonl").read_bytes()
    assert pretrain(CONFIG, tones, whole_run) == whole_run / checkpoints.FILE_NAME
    assert (whole_run / "log.jsonl").read_bytes() == log


def test_a_finished_run_is_kept_without_its_checkpoints(
    tones: Path, whole_run: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(whole_run, tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    weights = run / checkpoints.FILE_NAME
    assert pretrain(CONFIG, tones, run) == weights
    assert pretrain(replace(CONFIG, batch_size=None), tones, run) == weights
    for config, resume, message in (
        (
            CONFIG,
            "never",
            r"model\.safetensors contains the weights of a finished run: choose a new",
        ),
        (replace(CONFIG, seed=1), "auto", r"trained with other settings \(seed\).*choose a new"),
    ):
        with pytest.raises(ValueError, match=message):
            pretrain(config, tones, run, resume)  # type: ignore[arg-type]
    assert before == {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    weights.write_bytes(b"of the user")
    with pytest.raises(ValueError, match="was not written by a pretraining run: choose a new"):
        pretrain(CONFIG, tones, run)
    assert weights.read_bytes() == b"of the user"


def test_the_batch_size_that_was_chosen_may_be_given(tones: Path, tmp_path: Path) -> None:
    chosen = replace(CONFIG, batch_size=None, lr=None, epochs=1, warmup_epochs=None)
    weights = pretrain(chosen, tones, tmp_path)
    before = weights.read_bytes()
    pretrain(replace(chosen, batch_size=16), tones, tmp_path)
    assert weights.read_bytes() == before
    with pytest.raises(ValueError, match=r"other settings \(batch_size, lr\)"):
        pretrain(replace(chosen, batch_size=32), tones, tmp_path)


def test_what_does_not_fit_together_is_refused(
    tones: Path, whole_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"other settings \(seed\)"):
        pretrain(replace(CONFIG, seed=1), tones, whole_run)
    with pytest.raises(ValueError, match="already contains a run"):
        pretrain(CONFIG, tones, whole_run, resume="never")
    with pytest.raises(ValueError, match="not a finished pack"):
        pretrain(CONFIG, tmp_path, tmp_path / "run")
    other_mel = replace(MODEL, mel=MelConfig(f_min=60.0))
    with pytest.raises(ValueError, match="pack the audio again"):
        pretrain(replace(CONFIG, model=other_mel), tones, tmp_path / "run")
    with pytest.raises(ValueError, match="can't be used"):
        pretrain(replace(CONFIG, device="abacus"), tones, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="no weights at 'nowhere'"):
        pretrain(replace(CONFIG, init="nowhere"), tones, tmp_path / "run")
    assert not (tmp_path / "run").exists(), "nothing is written for a run that can't start"


@pytest.mark.parametrize("name", ["config.json", "log.jsonl", "checkpoints"])
def test_files_of_others_in_the_folder_are_not_replaced(
    name: str, tones: Path, tmp_path: Path
) -> None:
    if name == "checkpoints":
        (tmp_path / name).mkdir()
        (tmp_path / name / "step-500.safetensors").touch()
        (tmp_path / name / "step-last.safetensors").touch()
    else:
        (tmp_path / name).write_text('{"model": "of fine-tuning", "epochs": 2, "seed": 0}', "utf-8")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=rf"contains {name}, which no earlier.*: choose a new f"):
        pretrain(CONFIG, tones, tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "settings",
    [
        {"warmup_epochs": 100.0},
        {"batch_size": 0},
        {"lr": -1.0},
        {"lr": math.inf},
        {"seed": -1},
        {"micro_batch": 0},
        {"weight_decay": -1.0},
        {"weight_decay": math.nan},
        {"checkpoint_minutes": -1.0},
        {"checkpoint_minutes": math.nan},
    ],
)
def test_settings_that_make_no_sense(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        PretrainConfig(**settings)


def test_the_reason_against_a_device_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError(f"no backend {10_000 * 'x'}\nregistered at ...")

    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(ValueError, match=r"^.{0,220}$") as caught:
        choose_device("mps")
    assert str(caught.value).startswith("device='mps' can't be used (no backend xxx")


def test_a_diverged_run_stops(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last good checkpoint stays, although more were due before the log told the trouble."""
    make = CropDataset.batch

    def batch(self: CropDataset, step: int, *rank: int) -> torch.Tensor:
        return make(self, step, *rank) * (torch.nan if step >= 6 else 1.0)

    monkeypatch.setattr(CropDataset, "batch", batch)
    with pytest.raises(DivergedError, match="Lower the learning rate"):
        pretrain(replace(CONFIG, stop_after_bad_steps=4, checkpoint_every=2), tones, tmp_path)
    assert read_log(tmp_path / "log.jsonl")[-1]["step"] == 12  # the first line after the fourth
    names = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert names == ["step-00000004.safetensors", "step-00000006.safetensors"]


def test_an_overflow_is_not_saved(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finite gradient can make a weight infinite; only the step after it shows in the loss."""
    learn = TrainStep.step

    def step(self: TrainStep, *batch: object) -> bool:
        done = learn(self, *batch)  # type: ignore[arg-type]
        if self.optimizers[0].state[self.parameters[0]]["step"] == 8:
            self.parameters[0].data.fill_(torch.inf)
        return done

    monkeypatch.setattr(TrainStep, "step", step)
    with pytest.raises(DivergedError):
        pretrain(CONFIG, tones, tmp_path)
    assert [p.name for p in list_checkpoints(tmp_path / "checkpoints")] == [
        "step-00000004.safetensors"
    ]


def test_the_host_waits_for_the_device_only_to_log(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading one number waits for everything the device has to do."""
    monkeypatch.setattr(torch_impl, "_are_moderate", lambda spans: False)  # as on a device
    learn = TrainStep.step

    class NoReading(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            assert function is not torch.ops.aten._local_scalar_dense.default
            return function(*args, **(kwargs or {}))

    def step(self: TrainStep, *batch: object) -> bool:
        with NoReading():
            return learn(self, *batch)  # type: ignore[arg-type]

    with pytest.raises(AssertionError), NoReading():
        torch.ones(()).item()
    monkeypatch.setattr(TrainStep, "step", step)
    pretrain(replace(CONFIG, epochs=1, warmup_epochs=None, clip_norm=1.0), tones, tmp_path)


def test_a_run_with_every_option_resumes_bit_for_bit_and_can_be_prolonged(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(
        CONFIG, epochs=1.5, schedule="wsd", ema=0.9, mix=0.4, optimizer="muon", warmup_epochs=0.5
    )  # 11 steps, the last 2 of them in the cooldown
    long = replace(short, epochs=2)  # 14 and 3
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, 5, signal.SIGTERM)
        pretrain(short, tones, tmp_path / "cut")
    pretrain(short, tones, tmp_path / "cut")
    pretrain(short, tones, tmp_path / "short")
    assert curve(tmp_path / "cut") == curve(tmp_path / "short")
    assert same_weights(tmp_path / "cut", tmp_path / "short")
    pretrain(long, tones, tmp_path / "cut")
    pretrain(long, tones, tmp_path / "long")
    assert same_weights(tmp_path / "cut", tmp_path / "long")
    with pytest.raises(ValueError, match=r"other settings \(epochs, cooldown\)"):
        pretrain(replace(short, cooldown=0.5), tones, tmp_path / "cut")


def test_a_prolonged_run_resumes_where_it_was_interrupted(
    tones: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    short = replace(
        CONFIG,
        **{"epochs": 1.5, "schedule": "wsd", "cooldown": 0.5},
        **{"warmup_epochs": None, "milestone_epochs": 0.5},
    )  # 11 steps, the last 5 of them in the cooldown, and a milestone at the end
    long = replace(short, epochs=2)  # keeps the warm-up
    pretrain(short, tones, tmp_path / "cut")
    with monkeypatch.context() as patch, pytest.raises(Interrupted) as stop:
        stop_at(patch, 9, signal.SIGTERM)
        pretrain(long, tones, tmp_path / "cut")
    step = re.search(r"after step (\d+) of 14", str(stop.value))
    assert checkpoints.locate(str(tmp_path / "cut")).parent.name == "checkpoints"
    first = checkpoints.read(tmp_path / "cut" / "model.1.5-epochs.safetensors")[0]
    assert first == CONFIG.model
    assert step and 6 < int(step[1]) < 11
    with caplog.at_level("INFO"):
        pretrain(long, tones, tmp_path / "cut")
    assert f"at step {step[1]} of 14" in caplog.text
    log = (tmp_path / "cut" / "log.jsonl").read_bytes()
    for same in (long, replace(long, warmup_epochs=short.warmup)):
        pretrain(same, tones, tmp_path / "cut")
    assert not replace(short, warmup_epochs=short.warmup).conflicts(short.to_dict())
    assert (tmp_path / "cut" / "log.jsonl").read_bytes() == log, "it is finished"
    pretrain(replace(long, warmup_epochs=short.warmup), tones, tmp_path / "long")
    assert same_weights(tmp_path / "cut", tmp_path / "long")
