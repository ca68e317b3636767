"""Checkpoints: whole or not there, never lost, and never trusted when damaged."""

import errno
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import save_file

from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.pretrain.run import pretrain
from hear_axlstm.training import checkpoints
from hear_axlstm.training.checkpoint_manager import CheckpointManager, list_checkpoints, load_latest
from hear_axlstm.training.checkpoints import Checkpoint, CheckpointError
from hear_axlstm.training.signals import Interrupted
from tests.helpers.platforms import die
from tests.helpers.runs import CONFIG, curve, same_weights, start_process, stop_at

SMALL = Checkpoint(7, CONFIG.to_dict(), "corpus", {"model.a": torch.arange(12.0).view(3, 4)})
EAGER = replace(CONFIG, checkpoint_every=1)


def half_written(tensors: object, path: Path, metadata: object) -> None:
    path.write_bytes(b"\x00" * 10_000)
    die()


def written(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    save_file(tensors, path, metadata)
    die()


def train_and_die(write: Callable[..., None], data: Path, run: Path) -> None:
    """Train up to the third save, which writes its file by `write`."""
    calls = iter(range(100))
    checkpoints.save_file = lambda *a, **k: (save_file if next(calls) < 2 else write)(*a, **k)  # type: ignore[attr-defined]
    pretrain(EAGER, data, run)


@pytest.mark.parametrize("write", [half_written, written])
def test_killed_in_the_middle_of_a_save(
    write: Callable[..., None], tones: Path, whole_run: Path, tmp_path: Path
) -> None:
    process = start_process(train_and_die, write, tones, tmp_path)
    process.join()
    assert process.exitcode
    assert list(tmp_path.glob("checkpoints/*.partial"))
    latest = load_latest(tmp_path / "checkpoints")
    assert latest is not None and latest.step == 2
    pretrain(CONFIG, tones, tmp_path)
    assert not list(tmp_path.glob("checkpoints/*.partial"))
    assert curve(tmp_path) == curve(whole_run) and same_weights(tmp_path, whole_run)


def modified(file: Path) -> int:
    """When a file was written, in ns; 0 if it does not exist."""
    return file.stat().st_mtime_ns if file.exists() else 0


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(kills: int, tones: Path, whole_run: Path, tmp_path: Path) -> None:
    folder, started, step = tmp_path / "checkpoints", tmp_path / "config.json", 0
    draw = random.Random(kills)
    for _ in range(kills):
        before, seen = list_checkpoints(folder), modified(started)
        early = draw.random() < 0.3  # before the first step, else around a save
        process = start_process(pretrain, EAGER, tones, tmp_path)
        while process.is_alive() and not (
            modified(started) != seen and (early or list_checkpoints(folder) != before)
        ):
            time.sleep(0.001)
        process.join(draw.uniform(0.0, 0.1))
        process.kill()
        process.join()
        latest = load_latest(folder)
        if latest is not None:
            assert latest.step >= step, "what was saved stays saved"
            step = latest.step
    with open(tmp_path / "log.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 10, "lo')  # a line that was being written
    pretrain(CONFIG, tones, tmp_path)
    assert curve(tmp_path) == curve(whole_run) and same_weights(tmp_path, whole_run)


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
    pretrain(CONFIG, tones, tmp_path)
    assert f"{last} is damaged" in caplog.text
    assert same_weights(tmp_path, whole_run)


def test_an_error_of_the_disk_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        checkpoints.save(tmp_path / f"step-{step:08d}.safetensors", replace(SMALL, step=step))

    def failing(path: Path, **_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(checkpoints, "safe_open", failing)
        load_latest(tmp_path)
    latest = load_latest(tmp_path)
    assert latest is not None and latest.step == 2


def test_any_flipped_bit_and_any_cut_is_found(tmp_path: Path) -> None:
    """Wherever it is: in the header's settings, a shape, a name or a value."""
    path = tmp_path / "step-00000007.safetensors"
    checkpoints.save(path, SMALL)
    whole = path.read_bytes()
    assert PretrainConfig.from_dict(checkpoints.load(path).settings) == CONFIG
    for bit in random.Random(0).sample(range(8 * len(whole)), 500):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"damaged|format"):
            checkpoints.load(path)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoints.load(path)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_latest(tmp_path)


def test_the_state_after_a_skipped_step_is_saved_and_damage_is_not(tmp_path: Path) -> None:
    skipped = {**SMALL.tensors, "interval.in_a_row": torch.tensor(1.0)}
    damaged = {"model.a": torch.full((3, 4), torch.nan)}
    with CheckpointManager(tmp_path, kept=2) as manager:
        manager.save(replace(SMALL, tensors=skipped), milestone=False)
        manager.save(replace(SMALL, step=8, tensors=damaged), milestone=False)
    (saved,) = list_checkpoints(tmp_path)
    assert checkpoints.load(saved).step == 7


def test_the_last_few_and_the_milestones_stay(tones: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, keep_checkpoints=3, checkpoint_every=2, milestone_epochs=1.5)
    pretrain(config, tones, tmp_path)  # an epoch has 7.125 steps
    names = [path.name.split(".")[:2] for path in list_checkpoints(tmp_path / "checkpoints")]
    assert names == [
        ["step-00000011", "milestone"],
        ["step-00000022", "milestone"],
        ["step-00000024", "safetensors"],
        ["step-00000026", "safetensors"],
        ["step-00000028", "safetensors"],
    ]


def test_a_full_disk_is_said_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CheckpointManager(tmp_path, kept=1) as manager:
        manager.save(SMALL, milestone=False)
        manager.wait()
        with (
            monkeypatch.context() as patch,
            pytest.raises(CheckpointError, match="free some"),
        ):
            patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("no space left")))
            manager.save(replace(SMALL, step=8), milestone=False)
            manager.wait()
    latest = load_latest(tmp_path)
    assert latest is not None and latest.step == 7


def test_two_trainings_in_one_folder_are_refused(tones: Path, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(BlockingIOError, match="another process"):
        pretrain(CONFIG, tones, tmp_path)
