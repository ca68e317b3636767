"""HEAR task folders: what is read, and that each kind of damage gets one clear error."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hearbench.run.evaluate import Options, make_plan
from hearbench.tasks.audio import check_audio, with_audio
from hearbench.tasks.description import TaskError
from hearbench.tasks.folders import find_tasks, read_task
from tests.helpers.hear_task import SAMPLE_RATE, write_task
from tests.helpers.platforms import posix_only


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
    with pytest.raises(TaskError, match=r"unknown task 'tone': choose from tones-v1-full"):
        find_tasks(tmp_path, ["tone"])
    write_task(tmp_path / "tones-v1-small", task_name="tones")
    with pytest.raises(TaskError, match="may be any of tones-v1-full, tones-v1-small"):
        find_tasks(tmp_path, ["tones"])


@posix_only
def test_a_link_keeps_its_name(tmp_path: Path) -> None:
    for name in "ab":
        write_task(tmp_path / name / "full")
        (tmp_path / "tasks").mkdir(exist_ok=True)
        (tmp_path / "tasks" / name).symlink_to(tmp_path / name / "full")
    assert [task.path.name for task in find_tasks(tmp_path / "tasks")] == ["a", "b"]


def test_a_task_in_pieces_is_not_passed_over(tmp_path: Path) -> None:
    write_task(tmp_path / "tones")
    (write_task(tmp_path / "broken") / "task_metadata.json").unlink()
    (tmp_path / "notes").mkdir()
    assert len(find_tasks(tmp_path, ["tones"])) == 1
    with pytest.raises(TaskError, match=r"broken/task_metadata.json is missing"):
        find_tasks(tmp_path)


def test_digests_follow_labels_and_audio(tmp_path: Path) -> None:
    path = write_task(tmp_path / "tones")

    def digest(folder: Path = path) -> str:
        return with_audio(read_task(folder), [SAMPLE_RATE]).digests[SAMPLE_RATE]

    first = digest()
    shutil.copytree(path, tmp_path / "elsewhere" / "tones")
    assert digest(tmp_path / "elsewhere" / "tones") == first
    (path / "48000").mkdir()  # other rates, and files that no split names, don't matter
    (path / str(SAMPLE_RATE) / "train" / ".DS_Store").write_bytes(b"")
    assert digest() == first
    clip = path / str(SAMPLE_RATE) / "train" / "train-0.wav"
    clip.write_bytes(clip.read_bytes()[:-2] + b"\1\1")
    assert digest() != first
    labels = path / "train.json"
    labels.write_text(labels.read_text("utf-8").replace("high", "low", 1), "utf-8")
    assert len({first, second := digest()}) == 2 and second == digest()


def test_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="is not a directory: name the folder"):
        find_tasks(tmp_path / "absent")
    with pytest.raises(TaskError, match="no HEAR task"):
        find_tasks(tmp_path)


def edit(name: str, **changes: object) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = json.loads((path / name).read_text("utf-8"))
        (path / name).write_text(json.dumps(content | changes), "utf-8")

    return damage


def vocabulary(*rows: str) -> Callable[[Path], object]:
    text = "\n".join(["idx,label", *rows]) + "\n"
    return lambda path: (path / "labelvocabulary.csv").write_text(text, encoding="latin-1")


def metadata(**changes: object) -> Callable[[Path], None]:
    return edit("task_metadata.json", **changes)


def grid(**settings: object) -> dict[str, object]:
    return {"task_specific_param_grid": settings}


def deep(levels: int) -> object:
    value: object = "low"
    for _ in range(levels):
        value = [value]
    return value


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "split gone": (lambda path: (path / "valid.json").unlink(), "valid.json is missing"),
    "cut off": (lambda path: (path / "test.json").write_text('{"a', "utf-8"), "not valid JSON"),
    "no vocabulary": (lambda path: (path / "labelvocabulary.csv").unlink(), "csv is missing"),
    "bad vocabulary": (vocabulary("1,low", "2,high"), "count from 0 to 1"),
    "fractions": (vocabulary("0.0,low", "1.0,high"), "count from 0 to 1"),
    "encoding": (vocabulary("0,low", "1,h\xf6h"), "labelvocabulary.csv is not a CSV file"),
    "missing value": (vocabulary("0,low", "1,None"), "reads the label 'None' as nan"),
    "number": (vocabulary("0,00", "1,01"), "reads the label '00' as '0'"),
    "twice": (vocabulary("0,low", "1,low"), "'low' is listed twice"),
    "no list": (edit("train.json", **{"x.wav": None}), "labels of x.wav must be a list"),
    "no event": (metadata(embedding_type="event"), "an event of train-0.wav needs label"),
    "embedding": (metadata(embedding_type="scenes"), "'scenes' must be one of scene"),
    "prediction": (metadata(prediction_type="multi-class"), "'multi-class' must be one of multi"),
    "metric": (metadata(evaluation=["accuracy"]), "metric 'accuracy' must be one of top1_acc"),
    "metric alone": (metadata(evaluation="top1_acc"), "evaluation names no metric"),
    "duration": (metadata(sample_duration="0.3"), "sample_duration '0.3' must be null or seconds"),
    "parameters": (metadata(evaluation_params=None), "evaluation_params must be an object"),
    "batch size": (metadata(evaluation_params=grid(batch_size=512)), "batch_size 512 must be a"),
    "batches of 1": (metadata(evaluation_params=grid(batch_size=[1])), "integers of 2 or more"),
    "strange label": (edit("train.json", **{"x.wav": ["middle"]}), "'middle' of x.wav"),
    "two labels": (edit("train.json", **{"x.wav": ["low", "high"]}), "x.wav has 2 labels"),
    "split mode": (edit("task_metadata.json", split_mode="random"), "split_mode 'random'"),
    "up": (metadata(splits=["../x", "a", "b"], split_mode="new_split_kfold"), "split '../x' must"),
    "dots": (metadata(splits=["..", "a", "b"], split_mode="new_split_kfold"), "split '..' must"),
    "backslash": (metadata(splits=["c:\\x", "a", "b"], split_mode="new_split_kfold"), "plain file"),
    "split twice": (metadata(splits=["a", "a", "b", "c"], split_mode="new_split_kfold"), "twice"),
    "clip up": (edit("train.json", **{"../x.wav": ["low"]}), "clip '../x.wav' must be a plain"),
    "clip absolute": (edit("train.json", **{"/tmp/x.wav": ["low"]}), "must be a plain file name"),
    "clip NUL": (edit("train.json", **{"x\0.wav": ["low"]}), "must be a plain file name"),
    "surrogate": (edit("train.json", **{"\ud800.wav": ["low"]}), "must be a plain file name"),
    "deep": (
        lambda path: (path / "test.json").write_text("[" * 99_999, "utf-8"),
        "nested too deeply",
    ),
    "deep label": (edit("train.json", **{"x.wav": [deep(200)]}), "must be a string, not"),
    "endless": (metadata(sample_duration=10**400), "must be null or seconds above 0"),
    "infinite": (metadata(sample_duration=math.inf), "must be null or seconds above 0"),
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


@pytest.mark.parametrize(("start", "end"), [(2.0, 1.0), (0.0, math.nan), ("0", 1.0), (0, 10**400)])
def test_event_times_are_numbers_in_order(tmp_path: Path, start: object, end: object) -> None:
    path = write_task(tmp_path / "tones", embedding_type="event")
    for split in ("train", "valid", "test"):
        event = {"label": "low", "start": start, "end": end}
        (path / f"{split}.json").write_text(json.dumps({"x.wav": [event]}), "utf-8")
    with pytest.raises(TaskError, match=r"must start and end at milliseconds in this order"):
        read_task(path)


def test_no_folder_outside_is_touched(tmp_path: Path) -> None:
    """A task whose split leads out of the output folder is refused before anything is made."""
    write_task(tmp_path / "tasks" / "tones", folds=3)
    evil = tmp_path / "tasks" / "tones"
    name = "../../../../../thesis"
    (evil / "fold00.json").rename(tmp_path / "x.json")
    settings = json.loads((evil / "task_metadata.json").read_text("utf-8"))
    settings["splits"][0] = name
    (evil / "task_metadata.json").write_text(json.dumps(settings), "utf-8")
    (tmp_path / "thesis").mkdir()
    out = tmp_path / "a" / "b" / "c" / "out"
    with pytest.raises(TaskError, match="plain file name"):
        make_plan(("naive",), out, Options(tmp_path / "tasks"), print)
    assert (tmp_path / "thesis").is_dir() and not list((tmp_path / "thesis").iterdir())


def test_a_last_batch_of_one_is_refused(tmp_path: Path) -> None:
    path = write_task(tmp_path / "tones")
    clips = {f"{i}.wav": ["low"] for i in range(1025)}
    (path / "train.json").write_text(json.dumps(clips), "utf-8")
    with pytest.raises(TaskError, match="1025 training clips in batches of 1024 leave a last"):
        read_task(path)
    metadata(evaluation_params=grid(batch_size=[512, 1000]))(path)
    with pytest.raises(TaskError, match="1025 training clips in batches of 512 leave a last"):
        read_task(path)
    (path / "train.json").write_text(json.dumps(clips | {"x.wav": ["low"]}), "utf-8")
    read_task(path)


@posix_only  # for the dangling link
def test_missing_audio(tmp_path: Path) -> None:
    task = read_task(write_task(tmp_path / "tones"))
    with pytest.raises(TaskError, match=r"48000 Hz and the task has 16000; .*--rates 48000\)"):
        check_audio(task, 48_000)
    clip = task.path / str(SAMPLE_RATE) / "test" / "test-3.wav"
    clip.unlink()
    clip.symlink_to("nowhere.wav")
    with pytest.raises(TaskError, match=r"1 clip\(s\) are missing, the first is test-3.wav"):
        check_audio(task, SAMPLE_RATE)
