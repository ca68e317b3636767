"""Watching a run: kNN accuracy, pictures, curves, TensorBoard and Weights & Biases."""

from __future__ import annotations

import csv
import json
import logging
import signal
import struct
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from sklearn.neighbors import KNeighborsClassifier

from hear_axlstm import load_model
from hear_axlstm.audio.labels import LabelsError
from hear_axlstm.config import ModelConfig
from hear_axlstm.data.pack import pack
from hear_axlstm.models.patch_embed import patchify
from hear_axlstm.models.pretraining import MaskedPatchModel
from hear_axlstm.pretrain import knn, pictures
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.pretrain.knn import find_labeled_clips
from hear_axlstm.pretrain.monitor import PretrainMonitor
from hear_axlstm.pretrain.plot import plot
from hear_axlstm.pretrain.run import pretrain
from hear_axlstm.training.logging import JsonLines, RunLog, read_log
from hear_axlstm.training.signals import Interrupted
from hear_axlstm.training.step import TrainStep

MODEL = ModelConfig(dim=32, depth=1)
CONFIG = PretrainConfig(
    model=MODEL, epochs=4, batch_size=8, lr=3e-3, device="cpu", precision="float32", eval_epochs=2
)
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of tones, low and high, in a folder each."""
    folder = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(0)
    seconds = np.arange(16_000) / 16_000
    for label, low, high in (("low", 100, 400), ("high", 2000, 6000)):
        (folder / label).mkdir()
        for number in range(8):
            tone = 0.2 * np.sin(2 * np.pi * rng.uniform(low, high) * seconds)
            soundfile.write(folder / label / f"{number}.wav", tone, 16_000)
    return folder


@pytest.fixture(scope="module")
def watched_run(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "watched"
    pack(tones, run.parent / "pack", workers=1)
    pretrain(replace(CONFIG, knn=str(tones)), run.parent / "pack", run)
    return run


def accuracies(run: Path) -> list[tuple[int, float]]:
    lines = read_log(run / "log.jsonl")
    return [(x["step"], x["knn_accuracy"]) for x in lines if "knn_accuracy" in x]


def test_a_run_is_scored_and_drawn_every_few_epochs(watched_run: Path, tones: Path) -> None:
    scores = accuracies(watched_run)
    assert [step for step, _ in scores] == [0, 4, 8]  # 16 clips: 2 steps an epoch
    drawn = sorted((watched_run / "pictures").iterdir())
    assert [path.name for path in drawn] == ["step-00000004.png", "step-00000008.png"]
    assert all(path.read_bytes().startswith(PNG) for path in drawn)


def test_the_accuracy_is_of_what_the_hear_api_gives(watched_run: Path, tones: Path) -> None:
    expected = find_labeled_clips(tones).score(load_model(str(watched_run)))
    assert accuracies(watched_run)[-1][1] == expected > 0.9


def test_monitoring_changes_nothing(watched_run: Path, tones: Path, tmp_path: Path) -> None:
    pretrain(replace(CONFIG, eval_epochs=100), watched_run.parent / "pack", tmp_path)
    losses = [
        [line["loss"] for line in read_log(run / "log.jsonl") if "loss" in line]
        for run in (watched_run, tmp_path)
    ]
    assert losses[0] == losses[1]


def test_a_run_that_starts_over_is_scored_once_at_the_start(
    watched_run: Path, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, packed = replace(CONFIG, knn=str(tones)), watched_run.parent / "pack"

    def crash(*_: object) -> None:
        raise KeyError

    with monkeypatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(PretrainMonitor, "on_epoch_end", crash)
        pretrain(config, packed, tmp_path)
    pretrain(config, packed, tmp_path)
    assert accuracies(tmp_path) == accuracies(watched_run)


def test_a_new_run_keeps_no_score_of_an_earlier_one(
    watched_run: Path, tones: Path, tmp_path: Path
) -> None:
    """An earlier run in the folder that was killed before its first checkpoint."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict()), "utf-8")
    scored = {"step": 0, "epoch": 0.0, "knn_accuracy": -1.0}
    (tmp_path / "log.jsonl").write_text(json.dumps(scored) + "\n", "utf-8")
    pretrain(replace(CONFIG, knn=str(tones)), watched_run.parent / "pack", tmp_path)
    assert accuracies(tmp_path) == accuracies(watched_run)


def test_a_run_stopped_before_its_first_step_keeps_its_score(
    watched_run: Path, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, packed = replace(CONFIG, knn=str(tones)), watched_run.parent / "pack"
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="after step 0"):
        patch.setattr(TrainStep, "step", lambda *_: signal.raise_signal(signal.SIGINT) or 0)
        pretrain(config, packed, tmp_path)
    pretrain(config, packed, tmp_path)
    assert accuracies(tmp_path) == accuracies(watched_run)


def test_a_labeled_set_that_is_added_later_is_not_scored_as_the_start() -> None:
    monitor = PretrainMonitor.__new__(PretrainMonitor)
    monitor.labeled = monitor.lines = monitor  # type: ignore[assignment]
    monitor.trainer = SimpleNamespace(step=5000)  # type: ignore[assignment]
    monitor.on_start()  # would read the log


def test_an_unreadable_clip_is_found_before_training(
    watched_run: Path, tones: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    rows = f"path,label\n{tones}/low/0.wav,a\nbad.wav,b\n"
    (tmp_path / "clips.csv").write_text(rows, "utf-8")
    config = replace(CONFIG, knn=str(tmp_path / "clips.csv"))
    with pytest.raises(ValueError, match=r"bad\.wav: not decodable"):
        pretrain(config, watched_run.parent / "pack", tmp_path / "run")
    assert not read_log(tmp_path / "run" / "log.jsonl")


@pytest.mark.parametrize("split", [False, True])
def test_neighbors_vote_as_in_scikit_learn(split: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(3, (90,), generator=generator)
    scenes = torch.randn(90, 6, generator=generator) + 0.8 * classes[:, None] + 5.0
    test = torch.rand(90, generator=generator) < 0.4
    right = knn._is_right(scenes, classes, 3, tuple(test.tolist()) if split else None)

    scored = np.flatnonzero(test) if split else np.arange(90)
    expected = []
    for clip in scored:
        known = ~test.numpy() if split else np.arange(90) != clip
        center = scenes[known].mean(0) if split else scenes.mean(0)
        neighbors = KNeighborsClassifier(
            knn.NEIGHBORS, metric="cosine", algorithm="brute", weights=lambda d: 2 - d
        ).fit((scenes - center)[known], classes[known])
        expected.append(neighbors.predict((scenes - center)[[clip]])[0] == classes[clip])
    assert right.tolist() == expected
    assert 0.4 < np.mean(expected) < 0.95


def test_labels_come_from_folders_or_a_csv(tones: Path, tmp_path: Path) -> None:
    clips = find_labeled_clips(tones)
    labels = {clip.labels for clip in clips.clips}
    assert (len(clips.clips), labels, clips.test) == (16, {("low",), ("high",)}, None)
    files = [tmp_path / name for name in ("a.wav", "b.wav")]
    for path in files:
        path.touch()
    with open(tmp_path / "clips.csv", "w", encoding="utf-8", newline="") as file:
        rows = [["path", "label", "split"], ["a.wav", "a", "train"], ["b.wav", "b", "test"]]
        csv.writer(file).writerows(rows)
    clips = find_labeled_clips(tmp_path / "clips.csv")
    paths = [clip.source for clip in clips.clips]
    assert (paths, clips.test) == (list(map(str, files)), (False, True))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("sound,label\na.wav,a\n", "no column 'path'"),
        ("path,label\n", "lists no clips"),
        ("path,label\na.wav,a\na.wav,a\n", "1 class"),
        ("path,label\na.wav,a\nb.wav,b\n", "lists 1 missing file, e.g. "),
        ("path,label,split\na.wav,a,train\na.wav,b,dev\n", "'dev'"),
        ("path,label,split\na.wav,a,train\nb.wav,b,train\n", "both splits"),
    ],
)
def test_unusable_labels_are_named(rows: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "clips.csv").write_text(rows, "utf-8")
    with pytest.raises(ValueError, match=message):
        find_labeled_clips(tmp_path / "clips.csv")
    with pytest.raises(LabelsError, match="does not exist"):
        find_labeled_clips(tmp_path / "nowhere")


def test_pictures_show_what_was_hidden_and_what_the_model_made_of_it() -> None:
    model = MaskedPatchModel(MODEL)
    last = model.head[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, 7.0)  # every patch is "reconstructed" as sevens
    mel = torch.randn(2, 200, 80)
    mask = torch.rand(2, 250) < 0.5
    masked, reconstruction, target = pictures.panels(model, mel, mask)
    assert torch.equal(target, mel)
    hidden = patchify(masked, MODEL.patch).isnan()
    assert torch.equal(hidden, mask[..., None].expand_as(hidden))
    expected = torch.where(masked.isnan(), 7.0, mel)
    assert torch.equal(reconstruction, expected)


def test_curves_of_several_runs(watched_run: Path, tmp_path: Path) -> None:
    (tmp_path / "watched").mkdir()
    lines = JsonLines(tmp_path / "watched" / "log.jsonl", 0)  # the same name, just begun
    lines.write(step=1, epoch=0.1, loss=1.0, lr=1e-3, grad_norm=float("nan"))
    out = plot([watched_run, tmp_path / "watched"], tmp_path / "out" / "curves.png")
    assert out.read_bytes().startswith(PNG)
    with pytest.raises(ValueError, match=r"not a run's folder: it has no log\.jsonl"):
        plot([tmp_path], tmp_path / "curves.png")
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(ValueError, match="nothing is logged yet"):
        plot([tmp_path], tmp_path / "curves.png")
    JsonLines(tmp_path / "log.jsonl", None).write(step=1, epoch=0.1, knn_accuracy=0.5)
    assert plot([tmp_path], tmp_path / "curves.png")
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 0.5}\n', "utf-8")
    with pytest.raises(ValueError, match="nothing is logged yet"):
        plot([tmp_path], tmp_path / "curves.png")


def events(folder: Path) -> list[Any]:
    """TensorBoard's files, read record by record: length, checksum, data, checksum."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            found.append(event_pb2.Event.FromString(content[12 : 12 + size]))
            content = content[16 + size :]
    return found


def test_tensorboard_gets_every_number_and_picture(watched_run: Path) -> None:
    values = [(e.step, v) for e in events(watched_run / "tensorboard") for v in e.summary.value]
    assert {v.tag for _, v in values} >= {"loss", "lr", "knn_accuracy", "reconstruction"}
    shown = [(s, v.simple_value) for s, v in values if v.tag == "knn_accuracy"]
    assert shown == [(s, pytest.approx(a)) for s, a in accuracies(watched_run)]
    assert [s for s, v in values if v.image.encoded_image_string.startswith(PNG)] == [4, 8]


def test_wandb_is_used_where_a_project_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logged: list[dict[str, Any]] = []
    started = SimpleNamespace(
        log=logged.append, define_metric=lambda *a, **k: None, finish=lambda: logged.append({})
    )
    fake = SimpleNamespace(init=lambda **settings: started, Image=lambda picture: picture.shape)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    with RunLog(tmp_path, 0, {}) as lines:
        lines.write(step=1, loss=1.0)
    assert not logged
    monkeypatch.setenv("WANDB_PROJECT", "audio")
    with RunLog(tmp_path, 1, {}) as lines:
        lines.write(step=2, loss=0.5)
        lines.show(2, np.zeros((3, 4, 3), np.uint8))
    assert logged == [{"step": 2, "loss": 0.5}, {"step": 2, "reconstruction": (3, 4, 3)}, {}]
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with caplog.at_level(logging.WARNING), RunLog(tmp_path, 2, {}) as lines:
        lines.write(step=3, loss=0.4)
    assert "wandb is not installed" in caplog.text
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").open(encoding="utf-8")]
    assert steps == [1, 2, 3]
