"""The generated tasks: reproducible, in the official format, and neither trivial nor hopeless."""

from __future__ import annotations

import hashlib
import json
import runpy
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from hear_axlstm.audio.mel import LogMel, standardize
from hear_axlstm.config import MelConfig
from hearbench.synthetic import TASKS, MiniatureTask, write_corpus, write_tasks, writer
from hearbench.synthetic.tasks import SPLITS, Split
from hearbench.tasks.folders import find_tasks

FORMATS = [pytest.param(task, id=task.name) for task in TASKS]
MULTICLASS = [pytest.param(task, id=task.name) for task in TASKS if task.most_labels == 1]


@pytest.fixture(scope="module")
def tasks_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("miniature") / "tasks")


def digest(folder: Path) -> str:
    """sha256 over the names and bytes of all files below a folder."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return total.hexdigest()


def annotations(task: MiniatureTask, split: Split, tasks_dir: Path) -> dict[str, list[str]]:
    return json.loads((tasks_dir / task.name / f"{split}.json").read_text("utf-8"))


def load(task: MiniatureTask, split: Split, tasks_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the log-mel [clips, 2 F] and the label [clips] of a split."""
    labels = annotations(task, split, tasks_dir)
    folder = tasks_dir / task.name / "16000" / split
    audio = np.stack([soundfile.read(folder / name, dtype="float32")[0] for name in labels])
    mel = standardize(LogMel(MelConfig())(torch.from_numpy(audio)))
    statistics = torch.cat([mel.mean(1), mel.std(1)], dim=1).numpy()
    return statistics, np.array([label for (label,) in labels.values()])


def nearest_centroid_accuracy(task: MiniatureTask, tasks_dir: Path) -> float:
    features, labels = load(task, "train", tasks_dir)
    centroids = np.stack([features[labels == label].mean(0) for label in task.classes])
    features, labels = load(task, "test", tasks_dir)
    nearest = np.square(features[:, None] - centroids).sum(-1).argmin(1)
    return float(np.mean(np.array(task.classes)[nearest] == labels))


def test_two_runs_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = tuple(replace(t, clips=(1, 1, 1), classes=t.classes[:11]) for t in TASKS)
    monkeypatch.setattr(writer, "TASKS", few)
    first, second = write_tasks(tmp_path / "a"), write_tasks(tmp_path / "b")
    assert digest(first) == digest(second)
    assert digest(write_corpus(tmp_path / "c", 5)) == digest(write_corpus(tmp_path / "d", 5))


@pytest.mark.parametrize("task", FORMATS)
def test_heareval_reads_the_format(task: MiniatureTask, tasks_dir: Path) -> None:
    pytest.importorskip("heareval", reason="heareval is not installed: make setup")
    from heareval.embeddings.task_embeddings import AudioFileDataset
    from heareval.predictions.task_predictions import available_scores, label_vocab_nlabels
    from heareval.score import label_vocab_as_dict

    folder = tasks_dir / task.name
    metadata = json.loads((folder / "task_metadata.json").read_text("utf-8"))
    vocabulary, n_labels = label_vocab_nlabels(folder)
    index = label_vocab_as_dict(vocabulary, key="label", value="idx")
    assert n_labels == len(task.classes)
    assert set(metadata["evaluation"]) <= set(available_scores)
    for split in metadata["splits"]:
        labels = json.loads((folder / f"{split}.json").read_text("utf-8"))
        audio = AudioFileDataset(labels, folder / "16000" / split, 16_000)
        assert len(audio) == len(labels) == len(list((folder / "16000" / split).iterdir()))
        assert audio[0][0].shape == (round(metadata["sample_duration"] * 16_000),)
        assert {str(label) for clip in labels.values() for label in clip} <= set(index)


@pytest.mark.parametrize("task", MULTICLASS)
def test_classes_are_balanced(task: MiniatureTask, tasks_dir: Path) -> None:
    for split, count in zip(SPLITS, task.clips, strict=True):
        labels = [label for (label,) in annotations(task, split, tasks_dir).values()]
        assert Counter(labels) == dict.fromkeys(task.classes, count)


def test_tagging_has_every_label_in_every_split(tasks_dir: Path) -> None:
    (task,) = (t for t in TASKS if t.most_labels > 1)
    for split in SPLITS:
        clips = list(annotations(task, split, tasks_dir).values())
        assert {label for clip in clips for label in clip} == set(task.classes)
        assert {len(clip) for clip in clips} == {1, 2, 3}
        assert all(len(set(clip)) == len(clip) for clip in clips)


@pytest.mark.parametrize("task", FORMATS)
def test_no_clip_clips_repeats_or_is_silent(task: MiniatureTask, tasks_dir: Path) -> None:
    paths = list((tasks_dir / task.name).rglob("*.wav"))
    seen = {hashlib.sha256(path.read_bytes()).digest() for path in paths}
    assert len(seen) == len(paths)  # so no clip is in two splits
    for path in paths:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert 0.15 < np.abs(soundfile.read(path)[0]).max() < 0.9


def test_corpus_clips_last_2_to_10_seconds(tmp_path: Path) -> None:
    paths = sorted(write_corpus(tmp_path / "corpus", 12).glob("*.wav"))
    seconds = [soundfile.info(path).duration for path in paths]
    assert len(paths) == 12
    assert 2 <= min(seconds) < max(seconds) <= 10


def test_spectral_statistics_beat_chance_but_solve_nothing(tasks_dir: Path) -> None:
    multiclass = [task for task in TASKS if task.most_labels == 1]
    accuracy = {task.name: nearest_centroid_accuracy(task, tasks_dir) for task in multiclass}
    for task in multiclass:
        assert accuracy[task.name] > 1.3 / len(task.classes), task.name
    assert min(accuracy.values()) < 0.6  # not all tasks are trivial
    assert accuracy["keywords-mini"] < 0.6  # three words each share their average spectrum


def test_finished_work_is_kept_and_half_finished_work_redone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "corpus"

    def fail(*_: object) -> None:
        raise RuntimeError("interrupted")

    with monkeypatch.context() as patch:
        patch.setattr(writer, "corpus_clip", fail)
        with pytest.raises(RuntimeError, match="interrupted"):
            write_corpus(out, 3)
    assert not out.exists()
    write_corpus(out, 3)
    before = [path.stat().st_mtime_ns for path in sorted(out.iterdir())]
    write_corpus(out, 3)
    assert [path.stat().st_mtime_ns for path in sorted(out.iterdir())] == before


def test_what_two_processes_ask_for_at_once_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    render = writer._render

    def slowly(*arguments: Any) -> None:
        made.append(arguments)
        time.sleep(0.3)
        render(*arguments)

    monkeypatch.setattr(writer, "_render", slowly)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(write_corpus, [tmp_path / "corpus"] * 2, [3, 3]))
    assert len(made) == 1 and found == [tmp_path / "corpus"] * 2
    assert len(list(found[0].glob("*.wav"))) == 3


def test_only_the_tasks_that_were_asked_for_are_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tuple(replace(t, clips=(1, 1, 1), classes=t.classes[:2]) for t in TASKS)
    monkeypatch.setattr(writer, "TASKS", few)
    write_tasks(tmp_path, ["tonics-mini"])
    assert [path.name for path in tmp_path.iterdir()] == ["tonics-mini"]
    first = digest(tmp_path / "tonics-mini")
    write_tasks(tmp_path, ["tonics-mini", "strokes-mini"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["strokes-mini", "tonics-mini"]
    assert digest(tmp_path / "tonics-mini") == first
    with pytest.raises(ValueError, match="unknown task 'esc': choose from percussion-mini, "):
        write_tasks(tmp_path, ["tonics-mini", "esc"])


def test_hidden_files_do_not_matter_and_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tuple(replace(t, clips=(1, 1, 1), classes=t.classes[:2]) for t in TASKS)
    monkeypatch.setattr(writer, "TASKS", few)
    corpus, tasks = tmp_path / "corpus", tmp_path / "tasks"
    hidden = [folder / ".DS_Store" for folder in (corpus, tasks, tasks / "tonics-mini")]
    for file in hidden:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"icons")
    for _ in range(2):
        write_corpus(corpus, 2)
        write_tasks(tasks, ["tonics-mini"])
    assert [task.path.name for task in find_tasks(tasks)] == ["tonics-mini"]
    assert len(list(corpus.glob("*.wav"))) == 2
    assert [file.read_bytes() for file in hidden] == [b"icons"] * 3
    for clip in corpus.glob("*.wav"):
        clip.unlink()
    with pytest.raises(ValueError, match=r"corpus contains files that"):
        write_corpus(corpus, 3)  # its stamp is of another size


def test_other_files_are_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = tuple(replace(t, clips=(1, 1, 1), classes=t.classes[:2]) for t in TASKS)
    monkeypatch.setattr(writer, "TASKS", few)
    corpus, tasks = write_corpus(tmp_path / "corpus", 2), tmp_path / "tasks"
    write_tasks(tasks, ["tonics-mini"])
    (mine := tmp_path / "mine.wav").touch()
    (tasks / "strokes-mini").mkdir()
    (tasks / "strokes-mini" / "notes.txt").touch()
    before = digest(tmp_path)
    for write, out in ((write_tasks, tmp_path), (write_tasks, tasks), (write_corpus, tasks)):
        with pytest.raises(ValueError, match="files that this version did not generate"):
            write(out)
    with pytest.raises(ValueError, match=r"mine\.wav is a file"):
        write_corpus(mine)
    with pytest.raises(ValueError, match=r"corpus contains files that"):
        write_corpus(corpus, 3)  # a corpus of another size
    with pytest.raises(ValueError, match="clips=0"):
        write_corpus(tmp_path / "new", 0)
    monkeypatch.setattr(writer, "VERSION", "next")
    with pytest.raises(ValueError, match="tonics-mini contains files that"):
        write_tasks(tasks, ["tonics-mini"])
    assert digest(tmp_path) == before


def test_errors_of_the_command_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    (tmp_path / "file").touch()
    for out, clips, message in ((tmp_path / "file" / "x", 1, "file"), (tmp_path, 0, "clips=0")):
        arguments = ["", "corpus", "--out", str(out), "--clips", str(clips)]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as stop:
            runpy.run_module("hearbench.synthetic", run_name="__main__")
        assert stop.value.code == 2
        errors = capsys.readouterr().err
        assert errors.startswith("error: ") and message in errors and errors.count("\n") == 1
