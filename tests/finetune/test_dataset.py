"""Labeled clips: what can't be used is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hear_axlstm.audio.labels import LabelsError
from hear_axlstm.finetune.config import FinetuneConfig
from hear_axlstm.finetune.dataset import read_dataset
from hear_axlstm.pretrain.knn import find_labeled_clips
from tests.helpers.labeled import PITCHES, Row, rows_of, write


def test_one_fold_can_not_be_two_splits() -> None:
    with pytest.raises(ValueError, match="valid_fold and test_fold are both '1': use two"):
        FinetuneConfig(valid_fold="1", test_fold="1")


def test_a_single_clip_has_no_batch_norm() -> None:
    with pytest.raises(ValueError, match="batch_size=1: the batch norm of an MLP needs 2"):
        FinetuneConfig(mode="mlp", batch_size=1)


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


@pytest.mark.parametrize("read", [read_dataset, lambda file, _: find_labeled_clips(file)])
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
    assert len(find_labeled_clips(marked).clips) == 30


def test_rows_that_nothing_can_be_learned_from(
    tones: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    no_folds = replace(config, test_fold=None)

    def message(rows: list[Row]) -> str:
        with pytest.raises(LabelsError) as caught:
            read_dataset(write(tmp_path / "bad.csv", rows), config)
        return str(caught.value)

    rows = rows_of(tones)
    assert "1 class to train on: at least two are" in message(rows_of(tones, label="low"))
    found = message([{**rows[0], "label": "NaN"}, {**rows[1], "label": ""}, *rows[2:]])
    assert "2 unusable rows:\n  line 2: no 'label'" in found and "\n  line 3: no" in found
    odd = [{**row, "label": "odd"} if row == rows[5] else row for row in rows]
    assert "of the test clips have no training clips: odd" in message(odd)
    assert "is both a" in message([*rows, {**rows[0], "fold": 1}])
    assert "pass --multilabel" in message([*rows, {**rows[0], "label": "low;high"}])
    assert "no valid span: it must start" in message(rows_of(tones, start=2, end=1))
    with pytest.raises(LabelsError, match="line 2: split 'dev' is not one of train, valid, test"):
        read_dataset(write(tmp_path / "bad.csv", rows_of(tones, split="dev")), no_folds)


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


def test_a_clip_of_two_splits_is_refused_however_its_path_is_written(
    tones: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    config = replace(config, test_fold=None, test=tmp_path / "test" / "list.csv")
    config.test.parent.mkdir()  # type: ignore[union-attr]
    rows = rows_of(tones)
    (row,) = [row for row in rows if str(row["path"]).endswith("/4.wav")]
    for path in (f"{tones.parent}/./4.wav", tones.parent / ".." / tones.parent.name / "4.wav"):
        write(config.test, [{**row, "path": path}])  # type: ignore[arg-type]
        with pytest.raises(LabelsError, match="both a train and a test clip"):
            read_dataset(write(tmp_path / "train.csv", rows), config)
    split = [{**row, "split": "train"} for row in rows] + [{**row, "path": path, "split": "test"}]
    with pytest.raises(LabelsError, match="both a train and a test clip"):
        find_labeled_clips(write(tmp_path / "knn.csv", split))
