"""Fine-tuning: what can be learned is learned, and what can't be used is named."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from hear_axlstm import checkpoints, get_scene_embeddings, load_model
from hear_axlstm.audio.io import load_audio
from hear_axlstm.audio.labels import LabelsError
from hear_axlstm.audio.sources import AudioClip
from hear_axlstm.cli.predict import predict
from hear_axlstm.config import ModelConfig
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.finetune import full
from hear_axlstm.finetune.classifier import Classifier, Labels, load_classifier
from hear_axlstm.finetune.config import FinetuneConfig
from hear_axlstm.finetune.dataset import read_dataset
from hear_axlstm.finetune.embeddings import embed
from hear_axlstm.finetune.metrics import draw_confusion, scores
from hear_axlstm.finetune.run import finetune
from hear_axlstm.pretrain.knn import read_labeled
from hear_axlstm.training.logging import read_log
from hear_axlstm.training.signals import Interrupted
from hear_axlstm.training.step import Batch
from tests.embed.test_ambient import MODES
from tests.helpers.runs import curve

SMALL = ModelConfig(dim=32, depth=2)
RATE = 16_000
PITCHES = {"low": 200.0, "middle": 900.0, "high": 4000.0}
Row = dict[str, object]


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tones.csv: ten noisy tones of each pitch, of different lengths, in two folds."""
    folder = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for index in range(30):
        name, hertz = list(PITCHES.items())[index % 3]
        time = np.arange(int(rng.uniform(0.3, 0.6) * RATE)) / RATE
        noise = 0.05 * rng.standard_normal(len(time))
        soundfile.write(
            folder / f"{index}.wav", 0.3 * np.sin(2 * np.pi * hertz * time) + noise, RATE
        )
        rows.append({"path": f"{index}.wav", "label": name, "fold": index // 3 % 2})
    return write(folder / "tones.csv", rows)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("encoder") / "model.safetensors"
    checkpoints.save(path, Embedder(SMALL), {}, torch.float32)
    return str(path)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hear_axlstm"


@pytest.fixture
def config(encoder: str) -> FinetuneConfig:
    return FinetuneConfig(
        model=encoder, device="cpu", precision="float32", test_fold="1", epochs=40
    )


def write(path: Path, rows: Sequence[Row]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows_of(tones: Path, **columns: object) -> list[Row]:
    with tones.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{**row, "path": tones.parent / row["path"], **columns} for row in rows]


@pytest.mark.parametrize("mode", ["linear", "mlp"])
def test_a_probe_learns_pitches_and_predicts_from_its_file(
    mode: str, tones: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    found = finetune(tones, tmp_path / "run", replace(config, mode=mode))  # type: ignore[arg-type]
    assert found["test"]["accuracy"] > 0.9 and found["test"]["AUC"] > 0.95
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
    assert json.loads((tmp_path / "run" / "scores.json").read_text("utf-8")) == found


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
    found = finetune(write(tmp_path / "tags.csv", rows), tmp_path / "run", config)
    assert found["test"]["mAP"] > 0.9 and set(found["test"]) == {"loss", "mAP", "AUC"}
    predicted = load_classifier(tmp_path / "run").predict(torch.randn(2, RATE) * 0.02)
    assert predicted.shape == (2, 3) and predicted.dtype == bool
    assert not (tmp_path / "run" / "confusion.png").exists()


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
    make = full.ClipBatches.batch

    def interrupted(batches: full.ClipBatches, step: int) -> Batch:
        if step == 4:
            signal.raise_signal(signal.SIGINT)
        return make(batches, step)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match=r"step [34] of 6"):
        patch.setattr(full.ClipBatches, "batch", interrupted)
        finetune(tones, tmp_path / "cut", config)
    finetune(tones, tmp_path / "cut", config)
    assert curve(tmp_path / "whole") == curve(tmp_path / "cut")
    one, other = (
        checkpoints.read(tmp_path / n / "classifier.safetensors")[2] for n in ("whole", "cut")
    )
    assert all(torch.equal(one[name], other[name]) for name in one | other)


def test_embeddings_are_computed_once(
    tones: Path, encoder: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(encoder)
    clips = [AudioClip(f"{n}", str(tones.parent / f"{n}.wav")) for n in range(3)]
    first = embed(model, clips)
    monkeypatch.setattr(Embedder, "encode_scenes", None)
    again = embed(model, clips)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))  # type: ignore[arg-type]
    monkeypatch.undo()
    with torch.no_grad():
        model.encoder.cls_token += 1.0
    model.fuse()
    assert not torch.equal(embed(model, clips)[0], first[0])  # type: ignore[arg-type]


def test_a_cache_that_can_not_be_used_costs_nothing_but_time(
    tones: Path, encoder: str, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, clips = load_model(encoder), [AudioClip("0", str(tones.parent / "0.wav"))]
    first = embed(model, clips)
    (file,) = cache.glob("scenes-*/*.npy")
    for damage in (b"", file.read_bytes()[:200], b"no array"):
        file.write_bytes(damage)
        assert torch.equal(embed(model, clips)[0], first[0])  # type: ignore[arg-type]
    shutil.rmtree(cache)
    cache.touch()  # no folder can be made there
    assert torch.equal(embed(model, clips)[0], first[0])  # type: ignore[arg-type]
    assert "embeddings are not cached" in caplog.text


def test_a_run_that_trained_nothing_may_start_again_otherwise(
    tones: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    extra = {"path": tmp_path / "broken.wav", "label": "low", "fold": 0}
    file = write(tmp_path / "some.csv", [*rows_of(tones), extra])
    with pytest.raises(LabelsError, match="leave them out with --skip-broken"):
        finetune(file, tmp_path / "run", config)
    assert finetune(file, tmp_path / "run", replace(config, skip_broken=True, epochs=1))


def test_one_fold_can_not_be_two_splits() -> None:
    with pytest.raises(ValueError, match="valid_fold and test_fold are both '1': use two"):
        FinetuneConfig(valid_fold="1", test_fold="1")


def test_a_folder_holds_one_run(tones: Path, config: FinetuneConfig, tmp_path: Path) -> None:
    finetune(tones, tmp_path, config)
    finetune(tones, tmp_path, config)
    with pytest.raises(ValueError, match=r"with other settings \(mode, dropout\): choose a new"):
        finetune(tones, tmp_path, replace(config, mode="mlp", dropout=0.1))


def test_scores_are_those_of_the_classes_that_occur() -> None:
    rng = np.random.default_rng(0)
    logits, targets = torch.from_numpy(rng.normal(size=(50, 4))), torch.arange(50) % 3
    found = scores(Labels(tuple("abcd"), False), logits, targets)
    of_class = np.eye(4)[targets][:, :3], logits.softmax(1)[:, :3]
    assert found["mAP"] == pytest.approx(average_precision_score(*of_class))
    assert found["AUC"] == pytest.approx(roc_auc_score(*of_class))
    recalls = [(logits.argmax(1) == c)[targets == c].float().mean().item() for c in range(3)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))


def test_validation_clips_are_drawn_from_each_class(tones: Path, config: FinetuneConfig) -> None:
    splits = read_dataset(tones, config).splits
    assert {split: len(clips) for split, clips in splits.items()} == {
        "train": 12,
        "valid": 3,
        "test": 15,
    }
    assert {clip.labels for clip in splits["valid"]} == {(name,) for name in PITCHES}


def test_splits_come_from_a_column_or_from_other_files(
    tones: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    rows = rows_of(tones)
    for row, split in zip(rows, ["train"] * 21 + ["valid"] * 6 + ["test"] * 3, strict=True):
        row["split"] = split
    by_column = read_dataset(write(tmp_path / "all.csv", rows), replace(config, test_fold=None))
    files = [
        write(tmp_path / f"{n}.csv", r) for n, r in enumerate((rows[:21], rows[21:27], rows[27:]))
    ]
    for file in files:
        write(file, [{k: v for k, v in row.items() if k != "split"} for row in rows_of(file)])
    by_files = replace(config, test_fold=None, valid=files[1], test=files[2])
    found = read_dataset(files[0], by_files).splits
    assert [[c.source for c in found[s]] for s in found] == [
        [c.source for c in by_column.splits[s]] for s in by_column.splits
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": "species"}, "no column 'species': its header has path, label, fold"),
        ({"test_fold": "7"}, "no clip of fold '7': its folds are 0, 1"),
        ({"test": Path("nowhere.csv"), "test_fold": None}, "does not exist"),
    ],
)
def test_columns_that_are_not_there(
    change: dict[str, object], message: str, tones: Path, config: FinetuneConfig
) -> None:
    with pytest.raises(ValueError, match=message):
        read_dataset(tones, replace(config, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("read", [read_dataset, lambda file, _: read_labeled(file)])
def test_a_csv_of_another_encoding_is_named(
    read: Callable[[Path, FinetuneConfig], object], tmp_path: Path, config: FinetuneConfig
) -> None:
    file = tmp_path / "latin.csv"
    file.write_bytes("path,label,fold\na.wav,Bär,0\n".encode("latin-1"))
    with pytest.raises(
        ValueError, match=r"latin\.csv: 1 unusable row:\n  line 2: b'B\\xe4r' is not UTF-8"
    ):
        read(file, config)


def test_a_mark_before_the_header_is_no_column(tones: Path) -> None:
    marked = tones.with_name("marked.csv")
    marked.write_text(tones.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert len(read_labeled(marked).clips) == 30


def test_rows_that_nothing_can_be_learned_from(
    tones: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    no_folds = replace(config, test_fold=None)

    def message(rows: list[Row]) -> str:
        with pytest.raises(LabelsError) as caught:
            read_dataset(write(tmp_path / "bad.csv", rows), config)
        return str(caught.value)

    rows = rows_of(tones)
    assert "1 class to train on" in message(rows_of(tones, label="low"))
    found = message([{**rows[0], "label": "NaN"}, {**rows[1], "label": ""}, *rows[2:]])
    assert "2 unusable rows:\n  line 2: no 'label'" in found and "\n  line 3: no" in found
    odd = [{**row, "label": "odd"} if row == rows[5] else row for row in rows]
    assert "of the test clips have no training clips: odd" in message(odd)
    assert "is both a" in message([*rows, {**rows[0], "fold": 1}])
    assert "pass --multilabel" in message([*rows, {**rows[0], "label": "low;high"}])
    assert "no valid span: it must start" in message(rows_of(tones, start=2, end=1))
    with pytest.raises(LabelsError, match="line 2: split 'dev' is not one of train, valid, test"):
        read_dataset(write(tmp_path / "bad.csv", rows_of(tones, split="dev")), no_folds)


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
    found = finetune(file, tmp_path / "other", replace(config, skip_broken=True))
    assert found["test"]["accuracy"] > 0.9


def test_a_classifier_of_another_size_is_refused(tmp_path: Path) -> None:
    model = Classifier(SMALL, Labels(("a", "b"), False))
    model.labels = Labels(("a", "b", "c"), False)
    model.save(tmp_path / "classifier.safetensors", {})
    with pytest.raises(ValueError, match="do not fit its settings"):
        load_classifier(tmp_path)


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_of_torch_changes_no_prediction(mode: str, tmp_path: Path) -> None:
    Classifier(SMALL, Labels(("a", "b"), False)).save(tmp_path / "classifier.safetensors", {})
    audio = np.random.default_rng(0).normal(0, 0.1, 20_000).astype("f4")
    expected = load_classifier(tmp_path).predict_proba(audio)
    with MODES[mode]():
        found = load_classifier(tmp_path).predict_proba(audio)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_predict_writes_a_row_a_file_and_lists_the_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Classifier(SMALL, Labels(("a", "b"), False)).save(tmp_path / "classifier.safetensors", {})
    (tmp_path / "audio").mkdir()
    for name in ("one.wav", "two.flac"):
        soundfile.write(tmp_path / "audio" / name, np.linspace(-0.5, 0.5, RATE), RATE)
    (tmp_path / "audio" / "broken.wav").write_bytes(b"no audio")
    soundfile.write(tmp_path / "audio" / "silent.wav", np.zeros(RATE), RATE)
    with pytest.raises(SystemExit) as left:
        predict(tmp_path, (tmp_path / "audio",), out=tmp_path / "out.csv", device="cpu")
    error = capsys.readouterr().err
    assert left.value.code == 3 and "broken.wav: not decodable" in error
    assert "silent.wav: silent" in error and "2 of 4 left out" in error
    with (tmp_path / "out.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["path"]).name for row in rows] == ["one.wav", "two.flac"]
    for row in rows:
        assert {row["label_1"], row["label_2"]} == {"a", "b"}
        assert float(row["probability_1"]) >= float(row["probability_2"])


def test_predict_replaces_nothing_but_a_csv_that_it_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Classifier(SMALL, Labels(("a", "b"), False)).save(tmp_path / "classifier.safetensors", {})
    audio, out = tmp_path / "one.wav", tmp_path / "out.csv"
    soundfile.write(audio, np.linspace(-0.5, 0.5, RATE), RATE)
    out.write_text("earlier", "utf-8")
    before = audio.read_bytes()
    with pytest.raises(ValueError, match=r"one\.wav is not a CSV: choose a name that ends in"):
        predict(tmp_path, (audio,), out=audio)
    with pytest.raises(ValueError, match="no input: pass files"):
        predict(tmp_path, (), out=out)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Embedder, "encode_scenes", interrupt)
        predict(tmp_path, (audio,), out=out, device="cpu")
    assert audio.read_bytes() == before and out.read_text("utf-8") == "earlier"
    assert not list(tmp_path.glob("*.partial"))


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_was_left_out_is_counted(tones: Path, config: FinetuneConfig, tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    names = (tmp_path / "broken.wav", tmp_path / "gone.wav")
    extra = [{"path": path, "label": "low", "fold": 0} for path in names]
    file = write(tmp_path / "some.csv", [*rows_of(tones), *extra])
    found = finetune(file, tmp_path / "run", replace(config, skip_broken=True, epochs=1))
    assert found.left_out.startswith("2 of 32 left out (no such file: 1, ")
    with open(tmp_path / "run" / "report.csv", encoding="utf-8", newline="") as report:
        assert {row["id"] for row in csv.DictReader(report)} == set(map(str, names))


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_split_whose_files_are_all_missing_is_refused(
    split: str, tones: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    rows = [{"path": tmp_path / "gone.wav", "label": "low"}]
    other = write(tmp_path / "other.csv", rows)
    settings = replace(config, test_fold=None, skip_broken=True)
    settings = replace(settings, **{split: other})  # type: ignore[arg-type]
    with pytest.raises(LabelsError, match=rf"no file of the {split} clips exists, e\.g\. .*gone"):
        read_dataset(tones, settings)


def test_the_confusion_of_many_classes_is_a_small_picture(tmp_path: Path) -> None:
    labels = Labels(tuple(f"{number:04}" for number in range(400)), False)
    picture = tmp_path / "confusion.png"
    draw_confusion(labels, torch.eye(400), torch.arange(400), "all right", picture)
    with Image.open(picture) as image:
        assert max(image.size) <= 3_500
