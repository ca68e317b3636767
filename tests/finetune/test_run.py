"""Fine-tuning: what can be learned is learned, and a folder holds one run."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hear_axlstm import get_scene_embeddings, load_model
from hear_axlstm.audio.io import load_audio
from hear_axlstm.audio.labels import LabelsError
from hear_axlstm.checkpoints.checksum import ChecksumError
from hear_axlstm.finetune.classifier import Labels, load_classifier
from hear_axlstm.finetune.config import FinetuneConfig, Mode
from hear_axlstm.finetune.run import finetune
from hear_axlstm.training.trainer import DivergedError
from tests.helpers.labeled import PITCHES, RATE, Row, rows_of, write


@pytest.mark.parametrize("mode", ["linear", "mlp"])
def test_a_probe_learns_pitches_and_predicts_from_its_file(
    mode: str, tones: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    report = finetune(tones, tmp_path / "run", replace(config, mode=mode))  # type: ignore[arg-type]
    found = report.scores["test"]
    assert found["accuracy"] > 0.9 and found["AUC"] > 0.95
    classifier = load_classifier(tmp_path / "run")
    assert classifier.labels == Labels(("high", "low", "middle"), False)
    probabilities = classifier.predict_proba(tones.parent / "0.wav")
    assert probabilities.shape == (1, 3) and probabilities.sum() == pytest.approx(1)
    clips = [load_audio(tones.parent / f"{number}.wav") for number in range(2)]
    assert classifier.predict(clips).tolist() == ["low", "middle"]
    assert classifier.classes_.tolist() == ["high", "low", "middle"]
    written = {path.name for path in (tmp_path / "run").glob("[!.]*")}
    expected = {
        "classifier.safetensors",
        "config.json",
        "confusion.png",
        "log.jsonl",
        "scores.json",
    }
    assert written == expected
    assert json.loads((tmp_path / "run" / "scores.json").read_text("utf-8")) == report.scores


def test_the_file_is_an_encoder_too(tones: Path, config: FinetuneConfig, tmp_path: Path) -> None:
    finetune(tones, tmp_path, config)
    audio = torch.randn(1, RATE)
    found, expected = (
        get_scene_embeddings(audio, load_model(spec))
        for spec in (str(tmp_path / "classifier.safetensors"), config.model)
    )
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="an encoder without a head"):
        load_classifier(config.model)


def test_a_classifier_of_mean_and_deviation_pools_as_it_was_trained(
    tones: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    config = replace(config, pooling="mean_std")
    assert finetune(tones, tmp_path / "run", config).scores["test"]["accuracy"] > 0.9
    classifier = load_classifier(tmp_path / "run")
    assert classifier.scene_embedding_size == 2 * classifier.timestamp_embedding_size
    clips = [load_audio(tones.parent / f"{number}.wav") for number in range(2)]
    assert classifier.predict(clips).tolist() == ["low", "middle"]
    full = replace(config, mode="full", epochs=1, patience=1)
    found = finetune(tones, tmp_path / "full", full).scores["test"]
    assert np.isfinite(found["loss"])
    with pytest.raises(ValueError, match=r"other settings \(pooling\)"):
        finetune(tones, tmp_path / "run", replace(config, pooling=None))


def test_several_labels_a_clip(config: FinetuneConfig, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows: list[Row] = []
    for index in range(40):
        names = [name for name in PITCHES if rng.random() < 0.5]
        time = np.arange(RATE // 2) / RATE
        parts = [np.sin(2 * np.pi * PITCHES[name] * time) for name in names]
        soundfile.write(
            tmp_path / f"{index}.wav",
            0.2 * sum(parts) + 0.02 * rng.standard_normal(len(time)),
            RATE,
        )
        rows.append({"path": f"{index}.wav", "label": ";".join(names), "fold": index % 2})
    config = replace(config, multilabel=True)
    found = finetune(write(tmp_path / "tags.csv", rows), tmp_path / "run", config).scores["test"]
    assert found["mAP"] > 0.9 and set(found) == {"loss", "mAP", "AUC"}
    predicted = load_classifier(tmp_path / "run").predict(torch.randn(2, RATE) * 0.02)
    assert predicted.shape == (2, 3) and predicted.dtype == bool
    assert not (tmp_path / "run" / "confusion.png").exists()


def test_a_run_that_trained_nothing_may_start_again_otherwise(
    tones: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    extra = {"path": tmp_path / "broken.wav", "label": "low", "fold": 0}
    file = write(tmp_path / "some.csv", [*rows_of(tones), extra])
    with pytest.raises(LabelsError, match="leave them out with --skip-broken"):
        finetune(file, tmp_path / "run", config)
    assert finetune(file, tmp_path / "run", replace(config, skip_broken=True, epochs=1))


def test_a_folder_holds_one_run(tones: Path, config: FinetuneConfig, tmp_path: Path) -> None:
    finetune(tones, tmp_path, config)
    finetune(tones, tmp_path, config)
    with pytest.raises(ValueError, match=r"with other settings \(mode, dropout\): choose a new"):
        finetune(tones, tmp_path, replace(config, mode="mlp", dropout=0.1))


@pytest.mark.parametrize("name", ["config.json", "report.csv", "log.jsonl", "scores.json"])
def test_files_of_others_in_the_folder_are_not_replaced(
    name: str, tones: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").touch()  # no run writes a file of this name
    (tmp_path / name).write_text('{"of": "another program"}', "utf-8")
    with pytest.raises(ValueError, match=rf"contains {name}, which no earlier.*: choose a new f"):
        finetune(tones, tmp_path, config)
    assert (tmp_path / name).read_text("utf-8") == '{"of": "another program"}'
    (tmp_path / name).unlink()
    finetune(tones, tmp_path, config)


def test_files_that_are_missing_or_broken_are_listed_or_skipped(
    tones: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no audio")
    extra = [{"path": p, "label": "low", "fold": 0} for p in (broken, tmp_path / "gone.wav")]
    file = write(tmp_path / "some.csv", [*rows_of(tones), *extra])
    silent, short = tmp_path / "silent.wav", tmp_path / "short.wav"
    soundfile.write(silent, np.zeros(RATE), RATE)
    soundfile.write(short, 0.1 * np.ones(10), RATE)
    more = [{"path": path, "label": "low", "fold": 0} for path in (silent, short)]
    with pytest.raises(LabelsError, match="4 files can't be used") as raised:
        finetune(write(tmp_path / "all.csv", [*rows_of(tones), *extra, *more]), tmp_path, config)
    for reason in (
        "gone.wav: no such file",
        "broken.wav: not decodable",
        "silent.wav: silent",
        "short.wav: too short: 10 samples",
    ):
        assert reason in str(raised.value)
    extra.pop()
    file = write(tmp_path / "some.csv", [*rows_of(tones), *extra])
    with pytest.raises(LabelsError, match=r"1 file can't be used:\n  .*broken\.wav: not deco"):
        finetune(file, tmp_path / "run", config)
    report = finetune(file, tmp_path / "other", replace(config, skip_broken=True))
    assert report.scores["test"]["accuracy"] > 0.9


def test_what_was_left_out_is_counted(tones: Path, config: FinetuneConfig, tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    names = (tmp_path / "broken.wav", tmp_path / "gone.wav")
    extra = [{"path": path, "label": "low", "fold": 0} for path in names]
    file = write(tmp_path / "some.csv", [*rows_of(tones), *extra])
    report = finetune(file, tmp_path / "run", replace(config, skip_broken=True, epochs=1))
    assert str(report).splitlines()[-1].startswith("2 of 32 left out (no such file: 1, ")
    with open(tmp_path / "run" / "report.csv", encoding="utf-8", newline="") as report:
        assert {row["id"] for row in csv.DictReader(report)} == set(map(str, names))


def test_a_class_without_usable_training_clips_is_no_class(
    tones: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    rows = [row for row in rows_of(tones) if row["label"] != "middle"]
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    silent = {"path": tmp_path / "silent.wav", "label": "silence", "fold": 0}
    config = replace(config, skip_broken=True)
    finetune(write(tmp_path / "some.csv", [*rows, silent]), tmp_path / "run", config)
    assert load_classifier(tmp_path / "run").labels.classes == ("high", "low")
    low = [row for row in rows if row["label"] == "low"]
    file = write(tmp_path / "one.csv", [*low, silent])
    with pytest.raises(LabelsError, match="has 1 class to train on"):
        finetune(file, tmp_path / "other", config)


@pytest.mark.parametrize("mode", ["linear", "full"])
def test_a_diverged_run_names_the_learning_rate(
    mode: Mode, tones: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    config = replace(config, mode=mode, **{"encoder_lr" if mode == "full" else "lr": 1e30})
    with pytest.raises(DivergedError, match=r"not finite .*lower lr"):
        finetune(tones, tmp_path, config)


def test_a_damaged_classifier_is_not_loaded(
    tones: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    finetune(tones, tmp_path, config)
    (tmp_path / "classifier.safetensors.sha256").write_text("0" * 64, "utf-8")
    with pytest.raises(ChecksumError):
        load_classifier(tmp_path)
