"""The files that describe a HEAR task, checked before anything expensive starts.

    task_metadata.json    what kind of task it is, and how it is scored
    labelvocabulary.csv   its classes
    <split>.json          clip -> labels

(the format of hearpreprocess 2021).
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hearbench.errors import HearbenchError

BATCH_SIZE = 1024  # heareval's, of tasks without their own
SCORES = (
    *("top1_acc", "pitch_acc", "chroma_acc", "mAP", "d_prime", "aucroc"),
    *("event_onset_200ms_fms", "event_onset_50ms_fms", "event_onset_offset_50ms_20perc_fms"),
    "segment_1s_er",
)
CHOICES = {
    "embedding_type": ("scene", "event"),
    "prediction_type": ("multiclass", "multilabel"),
    "split_mode": ("trainvaltest", "new_split_kfold", "presplit_kfold"),
}
LONGEST_CLIP = 86_400.0  # seconds
REQUIRED = (*CHOICES, "task_name", "version", "sample_duration", "evaluation", "splits")

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 100


class TaskError(HearbenchError, ValueError):
    """Raised for a task folder that heareval can't use; the message names the remedy."""


@dataclass(frozen=True)
class Description:
    """A task folder without its audio."""

    metadata: Mapping[str, Any]
    vocabulary: tuple[str, ...]
    """The classes, in the order of their indexes."""
    labels: Mapping[str, Mapping[str, Any]]
    """Split -> clip -> labels, or labeled spans of time in an event task."""


def describe(folder: Path) -> Description:
    """Read and check a task folder without its audio.

    Raises:
        TaskError: if something that heareval needs is missing or contradicts itself.
    """
    metadata = read_metadata(folder)
    vocabulary = _read_vocabulary(folder / "labelvocabulary.csv")
    labels = {split: read_json(folder / f"{split}.json") for split in metadata["splits"]}
    for split, clips in labels.items():
        _check_labels(folder / f"{split}.json", clips, metadata, set(vocabulary))
    if metadata["embedding_type"] == "scene":
        sizes = {split: len(clips) for split, clips in labels.items()}
        _check_last_batch(folder, metadata, sizes)
    return Description(metadata, vocabulary, labels)


def read_json(path: Path) -> dict[str, Any]:
    """Read a nonempty JSON object.

    Raises:
        TaskError: if it is missing, empty or anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TaskError(f"{path} is missing: unpack the task again") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise TaskError(f"{path} is not valid JSON ({reason}): unpack the task again") from None
    if not isinstance(content, dict) or not content:
        raise TaskError(f"{path} must contain a JSON object that is not empty")
    return content


def read_metadata(folder: Path) -> dict[str, Any]:
    """Read a folder's task_metadata.json.

    Raises:
        TaskError: if it is missing, or asks for something that heareval does not support.
    """
    file = folder / "task_metadata.json"
    metadata = read_json(file)
    if missing := [key for key in REQUIRED if key not in metadata]:
        raise TaskError(f"{file}: {', '.join(missing)} missing: unpack the task again")
    for key, choices in CHOICES.items():
        if metadata[key] not in choices:
            raise TaskError(
                f"{file}: {key} {shown(metadata[key])} must be one of {', '.join(choices)}"
            )
    if not _is_names(metadata["evaluation"]):
        raise TaskError(f"{file}: evaluation names no metric: write a list of {', '.join(SCORES)}")
    if unknown := [name for name in metadata["evaluation"] if name not in SCORES]:
        raise TaskError(f"{file}: metric {shown(unknown[0])} must be one of {', '.join(SCORES)}")
    seconds = metadata["sample_duration"]
    if seconds is not None and not (_is_number(seconds) and 0 < seconds <= LONGEST_CLIP):
        raise TaskError(
            f"{file}: sample_duration {shown(seconds)} must be null or seconds above 0, up to a day"
        )
    grid = metadata.get("evaluation_params", {})
    if not isinstance(grid, dict) or not isinstance(grid.get("task_specific_param_grid", {}), dict):
        raise TaskError(f"{file}: evaluation_params must be an object, not {shown(grid)}")
    batch_sizes = own_grid(metadata).get("batch_size", [BATCH_SIZE])
    if not _is_batch_sizes(batch_sizes):
        raise TaskError(
            f"{file}: batch_size {shown(batch_sizes)} must be a list of integers of 2 or more"
        )
    _check_splits(file, metadata)
    return metadata


def own_grid(metadata: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The part of heareval's search space that a task's metadata overrides."""
    return metadata.get("evaluation_params", {}).get("task_specific_param_grid", {})


def cross_validation_folds(folds: Collection[str]) -> list[tuple[tuple[str, ...], str, str]]:
    """(train, valid, test) of a cross-validation, as heareval makes them.

    Each fold is the test set once; the next fold validates, the others train.
    """
    ordered = sorted(folds)
    pairs = zip(ordered, ordered[1:] + ordered[:1], strict=True)
    return [
        (tuple(fold for fold in ordered if fold not in (test, valid)), valid, test)
        for test, valid in pairs
    ]


def _check_splits(file: Path, metadata: Mapping[str, Any]) -> None:
    splits = metadata["splits"]
    if not _is_names(splits):
        raise TaskError(f"{file}: splits must be a list of names, not {shown(splits)}")
    for name in splits:
        check_name(file, "split", name)
    if len(set(splits)) < len(splits):
        raise TaskError(f"{file}: a split is listed twice in {shown(splits)}")
    if metadata["split_mode"] == "trainvaltest":
        if set(splits) != {"train", "valid", "test"}:
            found = ", ".join(sorted(splits))
            raise TaskError(f"{file}: trainvaltest needs train, valid and test, not {found}")
    elif len(set(splits)) < 3:
        raise TaskError(f"{file}: cross-validation needs 3 folds or more, not {len(set(splits))}")


def _is_names(value: Any) -> bool:
    return bool(value) and isinstance(value, list) and all(isinstance(x, str) for x in value)


def _is_batch_sizes(value: Any) -> bool:
    return bool(value) and isinstance(value, list) and all(type(n) is int and n > 1 for n in value)


def _read_vocabulary(file: Path) -> tuple[str, ...]:
    import pandas as pd  # as heareval reads it

    try:
        read, written = pd.read_csv(file), pd.read_csv(file, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise TaskError(f"{file} is missing: unpack the task again") from None
    except (OSError, ValueError) as error:
        raise TaskError(f"{file} is not a CSV file ({error}): unpack the task again") from None
    if not len(read) or {"idx", "label"} - set(read):
        raise TaskError(f"{file} needs the columns idx and label and one row per class")
    if sorted(written["idx"], key=str) != sorted(map(str, range(len(read)))):
        raise TaskError(f"{file}: idx must count from 0 to {len(read) - 1}, each once")
    for as_written, as_read in zip(written["label"], read["label"].astype(str), strict=True):
        if as_written != as_read:
            raise TaskError(
                f"{file}: heareval reads the label {as_written!r} as {as_read!r}: rename it"
            )
    if (twice := written["label"].duplicated()).any():
        raise TaskError(f"{file}: label {written['label'][twice].iloc[0]!r} is listed twice")
    return tuple(label for _, label in sorted(zip(read["idx"], written["label"], strict=True)))


def _check_labels(
    file: Path, clips: Mapping[str, Any], metadata: Mapping[str, Any], vocabulary: set[str]
) -> None:
    events = metadata["embedding_type"] == "event"
    for clip, labels in clips.items():
        check_name(file, "clip", clip)
        if not isinstance(labels, list):
            raise TaskError(f"{file}: the labels of {clip} must be a list, not {shown(labels)}")
        for entry in labels:
            if events:
                _check_event(file, clip, entry)
            elif not isinstance(entry, str | int | float):
                raise TaskError(f"{file}: a label of {clip} must be a string, not {shown(entry)}")
        names = {str(entry["label"] if events else entry) for entry in labels}
        if unknown := sorted(names - vocabulary):
            raise TaskError(
                f"{file}: label {shown(unknown[0])} of {clip} is not in labelvocabulary.csv"
            )
        if metadata["prediction_type"] == "multiclass" and not events and len(labels) != 1:
            raise TaskError(
                f"{file}: {clip} has {len(labels)} labels, but a multiclass task needs one per clip"
            )


def _check_event(file: Path, clip: str, event: Any) -> None:
    if not isinstance(event, dict) or {"label", "start", "end"} - event.keys():
        raise TaskError(
            f"{file}: an event of {clip} needs label, start and end, not {shown(event)}"
        )
    start, end = event["start"], event["end"]
    if not (_is_number(start) and _is_number(end) and start <= end):
        raise TaskError(
            f"{file}: an event of {clip} must start and end at milliseconds in this order, "
            f"not {shown(start)} and {shown(end)}"
        )
    if not isinstance(event["label"], str | int | float):
        raise TaskError(f"{file}: a label of {clip} must be a string, not {shown(event['label'])}")


def check_name(file: Path, kind: str, name: str) -> None:
    """Raise unless the name of a split or clip is a single path component.

    Files and folders are created, and removed, under such names.

    Raises:
        TaskError: for an empty name, `.`, `..`, path separators and characters no path can hold.
    """
    plain = name not in ("", ".", "..") and not any(c in name for c in "/\\\0")
    try:
        name.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        plain = False
    if not plain:
        raise TaskError(f"{file}: {kind} {shown(name)} must be a plain file name: rename it")


def shown(value: Any) -> str:
    """A value from a file for error messages, shortened if long."""
    return _REPR.repr(value)


def _is_number(value: Any) -> bool:
    """Whether it is a finite int or float."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an int beyond all floats
        return False


def _check_last_batch(folder: Path, metadata: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Raise if the last training batch is one row, on which heareval's BatchNorm fails."""
    parts = (
        [("train",)]
        if metadata["split_mode"] == "trainvaltest"
        else [r[0] for r in cross_validation_folds(sizes)]
    )
    rows = [sum(sizes[part] for part in train) for train in parts]
    for batch_size in own_grid(metadata).get("batch_size", [BATCH_SIZE]):
        if bad := [n for n in rows if n % batch_size == 1]:
            raise TaskError(
                f"{folder}: {bad[0]} training clips in batches of {batch_size} leave a last batch "
                "of one, which heareval's BatchNorm can't handle: add or remove a clip"
            )
