"""HEAR task folders: what is read, and that each kind of damage gets one clear error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.tasks import TaskError, check_audio, find_tasks, read_task
from tests.hear_task import SAMPLE_RATE, write_task


def test_folds_and_split_tasks(tmp_path: Path) -> None:
    write_task(tmp_path / "folded", folds=4)
    write_task(tmp_path / "split")
    folded, split = find_tasks(tmp_path)
    assert (folded.folds, folded.clips, folded.classes, folded.metric) == (4, 48, 2, "top1_acc")
    assert (split.folds, split.clips) == (1, 36)
    check_audio(split, SAMPLE_RATE)


def test_a_task_is_found_by_folder_or_by_name(tmp_path: Path) -> None:
    write_task(tmp_path / "tones-v1-full", task_name="tones")
    assert find_tasks(tmp_path, ["tones"]) == find_tasks(tmp_path, ["tones-v1-full"])
    with pytest.raises(TaskError, match=r"no task 'tone' .* there are tones-v1-full"):
        find_tasks(tmp_path, ["tone"])


def test_digest_follows_labels_and_audio(tmp_path: Path) -> None:
    path = write_task(tmp_path / "tones")
    digest = read_task(path).digest
    shutil.copytree(path, tmp_path / "elsewhere" / "tones")
    assert read_task(tmp_path / "elsewhere" / "tones").digest == digest
    clip = path / str(SAMPLE_RATE) / "train" / "train-0.wav"
    clip.write_bytes(clip.read_bytes()[:-2] + b"\1\1")
    assert read_task(path).digest != digest


def test_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="--tasks-dir"):
        find_tasks(tmp_path / "absent")
    with pytest.raises(TaskError, match="no HEAR task"):
        find_tasks(tmp_path)


def edit(name: str, **changes: object) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = json.loads((path / name).read_text())
        (path / name).write_text(json.dumps(content | changes))

    return damage


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "split gone": (lambda path: (path / "valid.json").unlink(), "valid.json is missing"),
    "cut off": (lambda path: (path / "test.json").write_text('{"a'), "not valid JSON"),
    "no vocabulary": (lambda path: (path / "labelvocabulary.csv").unlink(), "csv is missing"),
    "bad vocabulary": (
        lambda path: (path / "labelvocabulary.csv").write_text("idx,label\n1,low\n2,high\n"),
        "count from 0 to 1",
    ),
    "strange label": (edit("train.json", **{"x.wav": ["middle"]}), "'middle' of x.wav"),
    "two labels": (edit("train.json", **{"x.wav": ["low", "high"]}), "x.wav has 2 labels"),
    "split mode": (edit("task_metadata.json", split_mode="random"), "split_mode 'random'"),
    "splits": (edit("task_metadata.json", splits=["train", "test"]), "needs train, valid and test"),
    "no metric": (edit("task_metadata.json", evaluation=[]), "names no metric"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(tmp_path: Path, kind: str) -> None:
    path = write_task(tmp_path / "tones")
    damage, message = DAMAGE[kind]
    damage(path)
    with pytest.raises(TaskError, match=message):
        read_task(path)


def test_a_last_batch_of_one_is_refused(tmp_path: Path) -> None:
    path = write_task(tmp_path / "tones")
    clips = {f"{i}.wav": ["low"] for i in range(1025)}
    (path / "train.json").write_text(json.dumps(clips))
    with pytest.raises(TaskError, match="1025 training clips leave a last batch of one"):
        read_task(path)


def test_missing_audio(tmp_path: Path) -> None:
    task = read_task(write_task(tmp_path / "tones"))
    with pytest.raises(TaskError, match="wants 48000 Hz and the task has 16000"):
        check_audio(task, 48_000)
    (task.path / str(SAMPLE_RATE) / "test" / "test-3.wav").unlink()
    with pytest.raises(TaskError, match=r"lacks 1 clip\(s\), the first is test-3.wav"):
        check_audio(task, SAMPLE_RATE)
