"""Labeled clips from CSV files: read, checked, and shared out into training, validation and test.

Shapes: n clips, C classes.
"""

from __future__ import annotations

import csv
import logging
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from hear_axlstm.embed.scenes import Span
from hear_axlstm.finetune.classifier import Labels
from hear_axlstm.finetune.config import FinetuneConfig

log = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")
SEPARATOR = ";"
SHOWN = 10  # clips that a message lists


class LabelsError(ValueError):
    """A CSV that can't be learned from; the message names the remedy."""


@dataclass(frozen=True)
class LabeledClip:
    """What is heard, and the classes it has."""

    span: Span
    labels: tuple[str, ...]
    split: str = ""
    """One of SPLITS; empty where the CSV does not tell."""


@dataclass(frozen=True)
class Dataset:
    """The clips of each split, and the classes that the training clips show."""

    labels: Labels
    splits: Mapping[str, tuple[LabeledClip, ...]]
    """At least train and valid."""

    def targets(self, split: str) -> Tensor:
        """Class numbers int64 ``[n]``, or 0 and 1 in float32 ``[n, C]`` if multilabel."""
        number = {name: index for index, name in enumerate(self.labels.classes)}
        clips = self.splits[split]
        if not self.labels.multilabel:
            return torch.tensor([number[clip.labels[0]] for clip in clips])
        targets_nC = torch.zeros(len(clips), len(number))
        for row, clip in zip(targets_nC, clips, strict=True):
            row[[number[name] for name in clip.labels]] = 1.0
        return targets_nC


def read_dataset(train: Path, config: FinetuneConfig) -> Dataset:
    """Read and check the CSV files that `config` names.

    Each has a header with the columns path, relative to the CSV, and `config.labels`; start and end
    in seconds, fold and split are optional.

    Raises:
        LabelsError: for anything that can't be learned from or scored.
    """
    folds = {config.valid_fold: "valid", config.test_fold: "test"}
    clips = _read(train, config, {fold: s for fold, s in folds.items() if fold is not None})
    for split, file in (("valid", config.valid), ("test", config.test)):
        if file is not None:
            if any(clip.split == split for clip in clips):
                raise LabelsError(f"{train} has {split} clips, and so does {file}: give one")
            clips += [replace(clip, split=split) for clip in _read(file, config, {})]
    clips = _with_files(clips, config)
    if not any(clip.split == "valid" for clip in clips):
        clips = _draw_valid(clips, config)
    splits: dict[str, tuple[LabeledClip, ...]] = {}
    for split in SPLITS:
        splits[split] = tuple(clip for clip in clips if (clip.split or "train") == split)
    if not splits["test"]:
        del splits["test"]
    return check(Dataset(Labels(_classes(splits["train"]), config.multilabel), splits), train)


def check(dataset: Dataset, source: Path) -> Dataset:
    """The same dataset, if a classifier can be trained and scored on it.

    Raises:
        LabelsError: if it can't.
    """
    classes, splits = dataset.labels.classes, dataset.splits
    if not splits["train"]:
        raise LabelsError(f"{source} has no training clip: see its columns split and fold")
    if len(classes) < (1 if dataset.labels.multilabel else 2):
        raise LabelsError(f"{source} has {len(classes)} class(es) to train on: give two or more")
    for split, members in splits.items():
        if not members:
            raise LabelsError(f"{source} leaves no {split} clip: add clips, or name others")
        if unseen := sorted(set(_classes(members)) - set(classes)):
            raise LabelsError(
                f"{len(unseen)} class(es) of the {split} clips have no training clip: "
                f"{_shown(unseen)}: add some, or leave those clips out"
            )
    seen: dict[Span, str] = {}
    for split, members in splits.items():
        for clip in members:
            if seen.setdefault(clip.span, split) != split:
                raise LabelsError(
                    f"{clip.span.path} is both a {seen[clip.span]} and a {split} clip: "
                    "scores would mean nothing; take one of them out"
                )
    return dataset


def _read(file: Path, config: FinetuneConfig, folds: Mapping[str, str]) -> list[LabeledClip]:
    columns, rows = _rows(file)
    for column in ("path", config.labels, *(["fold"] if folds else [])):
        if column not in columns:
            has = ", ".join(columns) or "nothing"
            raise LabelsError(f"{file} has no column {column!r}: its header has {has}")
    if not rows:
        raise LabelsError(f"{file} lists no clips: add rows below the header")
    for fold in folds:
        if all(row["fold"] != fold for _, row in rows):
            known = _shown(sorted({str(row["fold"]) for _, row in rows}))
            raise LabelsError(f"{file} has no clip of fold {fold!r}: its folds are {known}")
    clips, unlabeled = [], []
    for number, row in rows:
        labels = _labels(row[config.labels], f"{file}, line {number}", config.multilabel)
        if labels is None:
            unlabeled.append(str(number))
            continue
        split = folds.get(row["fold"], "train") if folds else row.get("split") or ""
        clips.append(_clip(row, f"{file}, line {number}", file.parent, labels, split))
    if unlabeled:
        raise LabelsError(
            f"{file}: {len(unlabeled)} row(s) have no {config.labels!r}, in line "
            f"{_shown(unlabeled)}: fill the column in, or take them out"
        )
    return clips


def _rows(file: Path) -> tuple[Sequence[str], list[tuple[int, dict[str, str]]]]:
    """The header of a CSV, and its rows with their line numbers."""
    if not file.is_file():
        raise LabelsError(f"{file}: no such CSV: check the path")
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            return reader.fieldnames or [], [(reader.line_num, row) for row in reader]
    except UnicodeDecodeError:
        raise LabelsError(f"{file} is not UTF-8 text: save it as CSV in UTF-8") from None


def _labels(text: str | None, where: str, multilabel: bool) -> tuple[str, ...] | None:
    """The classes of a row; None if it has none though it should."""
    text = (text or "").strip()
    if text.lower() == "nan" or not (text or multilabel):
        return None
    if not multilabel:
        if SEPARATOR in text:
            raise LabelsError(
                f"{where}: {text!r} holds a {SEPARATOR!r}: pass --multilabel if it lists classes, "
                "else rename the class"
            )
        return (text,)
    return tuple(sorted({name.strip() for name in text.split(SEPARATOR)} - {""}))


def _clip(
    row: Mapping[str, str], where: str, folder: Path, labels: tuple[str, ...], split: str
) -> LabeledClip:
    if not row["path"]:
        raise LabelsError(f"{where}: no path: fill the column in")
    if split not in (*SPLITS, ""):
        raise LabelsError(f"{where}: split {split!r} is none of {', '.join(SPLITS)}")
    try:
        start, end = float(row.get("start") or 0), float(row.get("end") or math.inf)
    except ValueError:
        start = end = math.nan
    if not 0 <= start < end:
        raise LabelsError(f"{where}: start and end must be seconds, the end after the start")
    last = None if math.isinf(end) else end
    return LabeledClip(Span(folder / row["path"], start, last), labels, split)


def _with_files(clips: Sequence[LabeledClip], config: FinetuneConfig) -> list[LabeledClip]:
    """The clips whose files are there."""
    is_there = {path: path.is_file() for path in {clip.span.path for clip in clips}}
    return without_broken(
        clips,
        [f"{path}: no such file" for path, there in sorted(is_there.items()) if not there],
        [is_there[clip.span.path] for clip in clips],
        config.skip_broken,
    )


def without_broken(
    clips: Sequence[LabeledClip], reasons: Sequence[str], usable: Sequence[bool], skip: bool
) -> list[LabeledClip]:
    """The usable clips, with a warning about the others.

    Raises:
        LabelsError: if there are others, and they may not be skipped.
    """
    if reasons:
        found = f"{len(reasons)} file(s) can't be used:\n  " + "\n  ".join(reasons[:SHOWN])
        found += f"\n  and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
        if not skip:
            raise LabelsError(f"{found}\nmend them, or leave them out by --skip-broken")
        log.warning("%s\nthey are left out", found)
    return [clip for clip, good in zip(clips, usable, strict=True) if good]


def _draw_valid(clips: Sequence[LabeledClip], config: FinetuneConfig) -> list[LabeledClip]:
    """Make `config.valid_fraction` of the training clips of each class validation clips."""
    order = [index for index, clip in enumerate(clips) if clip.split in ("", "train")]
    random.Random(config.seed).shuffle(order)
    count = Counter(name for index in order for name in clips[index].labels or ("",))
    left = {name: min(n - 1, round(config.valid_fraction * n)) for name, n in count.items()}
    drawn = list(clips)
    for index in order:
        names = clips[index].labels or ("",)
        if all(left[name] > 0 for name in names):
            drawn[index] = replace(clips[index], split="valid")
            left.update({name: left[name] - 1 for name in names})
    return drawn


def _classes(clips: Sequence[LabeledClip]) -> tuple[str, ...]:
    return tuple(sorted({name for clip in clips for name in clip.labels}))


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
