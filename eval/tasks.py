"""HEAR task folders as data: what a task asks for, checked before anything expensive starts.

A folder holds `task_metadata.json`, `labelvocabulary.csv`, one `<split>.json` (clip -> labels) per
split and the audio as `<sample rate>/<split>/<clip>` (the format of hearpreprocess 2021).
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BATCH_SIZE = 1024  # heareval's, for every task
REQUIRED = (
    "task_name",
    "version",
    "embedding_type",
    "prediction_type",
    "split_mode",
    "sample_duration",
    "evaluation",
    "splits",
)
SPLIT_MODES = ("trainvaltest", "new_split_kfold", "presplit_kfold")


class TaskError(ValueError):
    """A task folder that heareval could not run, and how to repair it."""


@dataclass(frozen=True)
class Task:
    """One HEAR task, as its folder describes it."""

    path: Path
    """The task's folder."""
    name: str
    """`task_name` of the metadata, e.g. `esc50`."""
    mode: str
    """The amount of data, e.g. `full` or `5h`."""
    metric: str
    """The primary metric: the first one of `evaluation`."""
    folds: int
    """Folds whose test scores are averaged; 1 for a train/valid/test task."""
    clips: int
    """Clips in all splits together."""
    classes: int
    """Entries of the label vocabulary."""
    splits: tuple[str, ...]
    """Names of the splits."""
    digest: str
    """Names a state of labels and audio; embeddings of another state are never reused."""

    @property
    def slug(self) -> str:
        """The name of this state of the task in file paths."""
        return f"{self.path.name}-{self.digest}"


def find_tasks(folder: Path, names: Sequence[str] = ()) -> tuple[Task, ...]:
    """Read the tasks under `folder`, all of them or those called `names`.

    A name is a folder's name or a `task_name`.

    Raises:
        TaskError: if there are none, a name is unknown, or a task is broken.
    """
    if not folder.is_dir():
        raise TaskError(f"no folder {folder}: give --tasks-dir the folder that holds the tasks")
    found = {p.parent.name: p.parent for p in sorted(folder.glob("*/task_metadata.json"))}
    if not found:
        raise TaskError(f"{folder} holds no HEAR task (no */task_metadata.json): check --tasks-dir")
    by_name = {_read_metadata(path)["task_name"]: path for path in found.values()} | found
    if unknown := [name for name in names if name not in by_name]:
        raise TaskError(f"no task {unknown[0]!r} in {folder}: there are {', '.join(found)}")
    paths = dict.fromkeys(by_name[name] for name in names) if names else found.values()
    return tuple(read_task(path) for path in paths)


def read_task(path: Path) -> Task:
    """Read and check one task folder.

    Raises:
        TaskError: if something that heareval needs is missing or contradicts itself.
    """
    path = path.resolve()
    metadata = _read_metadata(path)
    vocabulary = _read_vocabulary(path)
    labels = {split: _read_json(path / f"{split}.json") for split in metadata["splits"]}
    for split, clips in labels.items():
        _check_labels(path / f"{split}.json", clips, metadata, vocabulary)
    sizes = {split: len(clips) for split, clips in labels.items()}
    if metadata["embedding_type"] == "scene":
        _check_last_batch(path, metadata["split_mode"], sizes)
    return Task(
        path=path,
        name=metadata["task_name"],
        mode=str(metadata.get("mode", "")),
        metric=metadata["evaluation"][0],
        folds=1 if metadata["split_mode"] == "trainvaltest" else len(sizes),
        clips=sum(sizes.values()),
        classes=len(vocabulary),
        splits=tuple(sizes),
        digest=_digest(path),
    )


def check_audio(task: Task, sample_rate: int) -> None:
    """Make sure that every clip of `task` is there at `sample_rate` Hz.

    Raises:
        TaskError: naming the first missing folder or clip.
    """
    for split in task.splits:
        folder = task.path / str(sample_rate) / split
        if not folder.is_dir():
            rates = sorted(p.name for p in task.path.iterdir() if p.name.isdigit())
            raise TaskError(
                f"{folder} is missing: the model wants {sample_rate} Hz and the task has "
                f"{', '.join(rates) or 'no audio'}; resample the task or pick another model"
            )
        present = {p.name for p in folder.iterdir()}
        if missing := sorted(set(_read_json(task.path / f"{split}.json")) - present):
            raise TaskError(f"{folder} lacks {len(missing)} clip(s), the first is {missing[0]}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise TaskError(f"{path} is missing: unpack the task again") from None
    except ValueError as error:
        raise TaskError(f"{path} is not valid JSON ({error}): unpack the task again") from None
    if not isinstance(content, dict) or not content:
        raise TaskError(f"{path} must hold a JSON object that is not empty")
    return content


def _read_metadata(path: Path) -> dict[str, Any]:
    file = path / "task_metadata.json"
    metadata = _read_json(file)
    if missing := [key for key in REQUIRED if key not in metadata]:
        raise TaskError(f"{file} lacks {', '.join(missing)}")
    if metadata["split_mode"] not in SPLIT_MODES:
        raise TaskError(f"{file}: split_mode {metadata['split_mode']!r} is none of {SPLIT_MODES}")
    splits = set(metadata["splits"])
    if metadata["split_mode"] == "trainvaltest" and splits != {"train", "valid", "test"}:
        raise TaskError(f"{file}: trainvaltest needs train, valid and test, not {sorted(splits)}")
    if metadata["split_mode"] != "trainvaltest" and len(splits) < 3:
        raise TaskError(f"{file}: cross-validation needs 3 folds or more, not {len(splits)}")
    if not metadata["evaluation"]:
        raise TaskError(f"{file}: evaluation names no metric")
    return metadata


def _read_vocabulary(path: Path) -> set[str]:
    file = path / "labelvocabulary.csv"
    if not file.is_file():
        raise TaskError(f"{file} is missing: unpack the task again")
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    if not rows or {"idx", "label"} - set(rows[0]):
        raise TaskError(f"{file} needs the columns idx and label and one row per class")
    if sorted(int(row["idx"]) for row in rows) != list(range(len(rows))):
        raise TaskError(f"{file}: idx must count from 0 to {len(rows) - 1}, each once")
    return {row["label"] for row in rows}


def _check_labels(
    file: Path, clips: dict[str, Any], metadata: dict[str, Any], vocabulary: set[str]
) -> None:
    events = metadata["embedding_type"] == "event"
    for clip, labels in clips.items():
        names = {str(entry["label"] if events else entry) for entry in labels}
        if names - vocabulary:
            unknown = sorted(names - vocabulary)[0]
            raise TaskError(f"{file}: label {unknown!r} of {clip} is not in labelvocabulary.csv")
        if metadata["prediction_type"] == "multiclass" and not events and len(labels) != 1:
            raise TaskError(f"{file}: {clip} has {len(labels)} labels, multiclass needs one")


def _check_last_batch(path: Path, split_mode: str, sizes: dict[str, int]) -> None:
    """Refuse a training set whose last batch is one row: heareval's BatchNorm dies of it."""
    if split_mode == "trainvaltest":
        rows = [sizes["train"]]
    else:  # fold i tests, fold i + 1 validates, the others train
        folds = sorted(sizes)
        pairs = zip(folds, folds[1:] + folds[:1], strict=True)
        rows = [sum(sizes.values()) - sizes[test] - sizes[valid] for test, valid in pairs]
    if bad := [n for n in rows if n % BATCH_SIZE == 1]:
        raise TaskError(
            f"{path}: {bad[0]} training clips leave a last batch of one, which heareval's "
            f"BatchNorm can't take: add or remove a clip"
        )


def _digest(path: Path) -> str:
    """SHA-256 (first 8 digits) over the descriptions and the audio, at every sample rate."""
    total = hashlib.sha256()
    descriptions = [p for p in path.iterdir() if p.suffix in (".json", ".csv")]
    audio = [p for rate in path.iterdir() if rate.name.isdigit() for p in rate.glob("*/*")]
    for file in sorted(descriptions) + sorted(audio):
        total.update(str(file.relative_to(path)).encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:8]
