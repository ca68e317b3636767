"""Labeled clips from the rows of a CSV, for fine-tuning and for the pretraining monitor."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.audio.skipped import Skipped
from hear_axlstm.audio.sources import TableSource
from hear_axlstm.wording import indented, plural

log = logging.getLogger(__name__)

LABEL = "label"
OTHER_LABEL_COLUMNS = ("labels", "category", "class")  # of FSD50K, ESC-50, UrbanSound8K
SPLITS = ("train", "valid", "test")
SYNONYMS = {"training": "train", "val": "valid", "validation": "valid"}
SYNONYMS |= {"testing": "test", "eval": "test", "evaluation": "test"}
SEPARATOR = ";"


class LabelsError(ValueError):
    """Raised for unusable labels; the message names the remedy."""


class LabeledRow(NamedTuple):
    """A labeled clip with the split and fold of its row."""

    line: int
    clip: AudioClip
    split: str
    """One of SPLITS; empty if the row does not specify one."""
    fold: str


def read_labeled(
    file: Path,
    column: str = LABEL,
    separator: str | None = None,
    path_column: str | None = None,
) -> tuple[list[LabeledRow], Sequence[str]]:
    """Read the clips of a CSV with their labels, splits and folds, and the names of its columns.

    Rows that repeat a clip with the same labels, split and fold count once.

    Args:
        file: CSV or TSV; paths are relative to it, see `TableSource`.
        column: column of labels; the default also finds labels, category or class.
        separator: separator of several labels in one value; None for a single label per value.
        path_column: column of paths; by default a usual name such as path or filename.

    Raises:
        TableError, SourceError, LabelsError: for a file or a row that can't be used.
    """
    source = TableSource(file, path_column)
    table = source.table
    name = _label_column(source, column)
    rows: list[LabeledRow] = []
    faults: list[str] = []
    for row, clip in source.rows():
        text = row.values.get(name, "")
        labels = _labels(text, separator)
        split = row.values.get("split", "").lower()
        split = SYNONYMS.get(split, split)
        if isinstance(clip, Skipped):
            faults.append(f"line {row.line}: {clip.reason}")
        elif any("\ud800" <= letter <= "\udfff" for letter in text):
            label = text.encode("utf-8", "surrogateescape")
            faults.append(f"line {row.line}: {label!r} is not UTF-8: save the file in UTF-8")
        elif labels is None:
            faults.append(f"line {row.line}: no {name!r}: fill in the column, or remove the line")
        elif split not in (*SPLITS, ""):
            faults.append(f"line {row.line}: split {split!r} is not one of {', '.join(SPLITS)}")
        else:
            clip = replace(clip, labels=labels)
            rows.append(LabeledRow(row.line, clip, split, row.values.get("fold", "")))
    if faults:
        raise LabelsError(f"{file}: {plural(len(faults), 'unusable row')}:{indented(faults)}")
    return _distinct(rows, file, separator is not None), table.columns


def refuse_overlap(source: object, splits: Mapping[str, Iterable[AudioClip]]) -> None:
    """Check that no clip is in two splits.

    Raises:
        LabelsError: naming the first one that is.
    """
    seen: dict[tuple[object, ...], str] = {}
    for split, clips in splits.items():
        for clip in clips:
            before = seen.setdefault(clip.span, split)
            if before != split:
                raise LabelsError(
                    f"{source}: {clip.id} is both a {before} and a {split} clip: "
                    "scores would be meaningless; remove one of them"
                )


def warn_of_separator(rows: Sequence[LabeledRow], separator: str) -> None:
    """Warn if labels seem to use a different separator."""
    labels = [name for row in rows for name in row.clip.labels]
    for other in (",", ";", "|"):
        holders = sum(other in label for label in labels)
        if other != separator and 4 * holders > len(labels) > 0:
            if any(len(row.clip.labels) > 1 for row in rows):
                continue  # the separator is in use
            log.warning(
                "no label contains the separator %r, but %d of %d contain %r, e.g. %r: "
                "pass --separator '%s' if it separates labels",
                separator,
                holders,
                len(labels),
                other,
                next(label for label in labels if other in label),
                other,
            )


def _label_column(source: TableSource, column: str) -> str:
    if name := source.table.column(column):
        return name
    if column == LABEL:
        for other in OTHER_LABEL_COLUMNS:
            if name := source.table.column(other):
                log.info("%s: labels are read from the column %r", source.table.path, other)
                return name
    has = ", ".join(source.table.columns)
    raise LabelsError(f"{source.table.path} has no column {column!r}: its header has {has}")


def _labels(text: str, separator: str | None) -> tuple[str, ...] | None:
    """The labels of a row; None if required labels are missing."""
    if text.lower() == "nan" or not (text or separator):
        return None
    if separator is None:
        return (text,)
    return tuple(sorted({name.strip() for name in text.split(separator)} - {""}))


def _distinct(rows: Sequence[LabeledRow], file: Path, joins: bool) -> list[LabeledRow]:
    """Remove repeated rows; if several labels are allowed, merge those of one clip."""
    first: dict[tuple[object, ...], int] = {}
    kept: list[LabeledRow] = []
    repeated = 0
    for row in rows:
        clip = row.clip
        key = (*clip.span, row.split, row.fold)
        if key not in first:
            first[key] = len(kept)
            kept.append(row)
            continue
        repeated += 1
        before = kept[first[key]]
        if clip.labels == before.clip.labels:
            continue
        if not joins:
            raise LabelsError(
                f"{file}: {clip.id} is {before.clip.labels[0]!r} in line {before.line} and "
                f"{clip.labels[0]!r} in line {row.line}: correct one, or pass --multilabel"
            )
        labels = tuple(sorted({*before.clip.labels, *clip.labels}))
        kept[first[key]] = before._replace(clip=replace(clip, labels=labels))
    if repeated:
        log.warning("%s: left out %s that repeat a clip", file, plural(repeated, "row"))
    return kept
