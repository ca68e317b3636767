"""Labeled clips from CSV files, checked and divided into training, validation and test.

Shapes: n clips, C classes.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.audio.decode_ahead import decode_ahead
from hear_axlstm.audio.labels import (
    SEPARATOR,
    SPLITS,
    LabeledRow,
    LabelsError,
    read_labeled,
    refuse_overlap,
    warn_of_separator,
)
from hear_axlstm.audio.skipped import Skipped
from hear_axlstm.config import MelConfig
from hear_axlstm.finetune.classifier import Labels
from hear_axlstm.finetune.config import FinetuneConfig
from hear_axlstm.progress import Progress
from hear_axlstm.wording import indented, listed, plural

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """The clips of each split, and the classes of the training clips."""

    labels: Labels
    splits: Mapping[str, tuple[AudioClip, ...]]
    """Clips by split, at least train and valid."""
    left_out: tuple[Skipped, ...] = ()
    """Listed files that can't be used."""

    @property
    def fingerprint(self) -> str:
        """Digest of the clips, their labels and splits."""
        clips = [
            (split, [(clip.source, clip.start, clip.end, clip.labels) for clip in members])
            for split, members in self.splits.items()
        ]
        return hashlib.sha256(repr(clips).encode(errors="surrogateescape")).hexdigest()[:16]

    def targets(self, split: str) -> Tensor:
        """Class indices, int64 ``[n]``, or multi-hot float32 ``[n, C]`` if multilabel."""
        number = {name: index for index, name in enumerate(self.labels.classes)}
        clips = self.splits[split]
        if not self.labels.multilabel:
            return torch.tensor([number[clip.labels[0]] for clip in clips], device="cpu")
        targets_nC = torch.zeros(len(clips), len(number), dtype=torch.float32, device="cpu")
        for row, clip in zip(targets_nC, clips, strict=True):
            row[[number[name] for name in clip.labels]] = 1.0
        return targets_nC


def read_dataset(train: Path, config: FinetuneConfig) -> Dataset:
    """Read and check the CSV files named in `config`.

    Each has a header with columns of paths, relative to the CSV, and labels; start and end in
    seconds, fold and split are optional.

    Raises:
        TableError, SourceError, LabelsError: for files or clips that can't be trained on or scored.
    """
    folds = {config.valid_fold: "valid", config.test_fold: "test"}
    rows = _read(train, config, {fold: s for fold, s in folds.items() if fold is not None})
    for split, file in (("valid", config.valid), ("test", config.test)):
        if file is not None:
            if any(row.split == split for row in rows):
                raise LabelsError(f"{train} has {split} clips, and so does {file}: use only one")
            rows += [row._replace(split=split) for row in _read(file, config, {})]
    used = {row.split for row in rows}
    rows, missing = _with_files(rows)
    if missing and not config.skip_broken:
        report_broken([*missing, *_unusable(rows)], skip=False)
    for split in sorted(used - {row.split for row in rows}):
        raise LabelsError(
            f"no file of the {split} clips exists, e.g. {missing[0].id}: check the paths"
        )
    if "valid" not in used:
        rows = _draw_valid(rows, config)
    splits = {split: tuple(row.clip for row in rows if row.split == split) for split in SPLITS}
    if not splits["test"]:
        del splits["test"]
    labels = Labels(class_names(splits["train"]), config.multilabel)
    return check(Dataset(labels, splits, missing), train)


def check(dataset: Dataset, source: Path) -> Dataset:
    """Return the dataset unchanged if a classifier can be trained and scored on it.

    Raises:
        LabelsError: otherwise.
    """
    classes, splits = dataset.labels.classes, dataset.splits
    if not splits["train"]:
        raise LabelsError(f"{source} has no training clips: check its columns split and fold")
    if len(classes) < (1 if dataset.labels.multilabel else 2):
        needed = "one is" if dataset.labels.multilabel else "two are"
        raise LabelsError(
            f"{source} has {plural(len(classes), 'class')} to train on: at least {needed} needed"
        )
    for split, members in splits.items():
        if not members:
            raise LabelsError(
                f"too few clips in {source} for a {split} set: add clips, or pass --{split} FILE"
            )
        if unseen := sorted(set(class_names(members)) - set(classes)):
            raise LabelsError(
                f"{plural(len(unseen), 'class')} of the {split} clips have no training clips: "
                f"{listed(unseen)}: add some, or leave those clips out"
            )
    refuse_overlap(source, splits)
    return dataset


def _read(file: Path, config: FinetuneConfig, folds: Mapping[str, str]) -> list[LabeledRow]:
    """Read a CSV's rows, each with its split: by its fold, or else the column split, or train."""
    separator = config.separator if config.multilabel else None
    rows, columns = read_labeled(file, config.labels, separator, config.path_column)
    if folds and "fold" not in [name.lower() for name in columns]:
        raise LabelsError(f"{file} has no column 'fold': its header has {', '.join(columns)}")
    for fold in folds:
        if all(row.fold != fold for row in rows):
            known = listed(sorted({row.fold for row in rows}))
            raise LabelsError(f"{file} has no clip of fold {fold!r}: its folds are {known}")
    if config.multilabel:
        warn_of_separator(rows, config.separator)
    else:
        for row in rows:
            if SEPARATOR in row.clip.labels[0]:
                raise LabelsError(
                    f"{file}, line {row.line}: {row.clip.labels[0]!r} contains {SEPARATOR!r}: "
                    "pass --multilabel if it lists classes, else rename the class"
                )
    return [
        row._replace(split=folds.get(row.fold, "train") if folds else row.split or "train")
        for row in rows
    ]


def _with_files(rows: Sequence[LabeledRow]) -> tuple[list[LabeledRow], tuple[Skipped, ...]]:
    """Separate rows whose files exist from missing files."""
    sources = {str(row.clip.source) for row in rows}
    is_there = {path: Path(path).is_file() for path in sources}
    missing = [Skipped(path, "no such file") for path in sorted(sources) if not is_there[path]]
    return [row for row in rows if is_there[str(row.clip.source)]], tuple(missing)


def _unusable(rows: Sequence[LabeledRow]) -> list[Skipped]:
    """Clips that can't be decoded or are silent or too short, found without embedding them."""
    rate = MelConfig().sample_rate
    found = decode_ahead(((row.clip, row.clip) for row in rows), rate, longest=None)
    with closing(found), Progress(total=len(rows), desc="checking", unit="clip") as bar:
        unusable = []
        for clip, decoded in found:
            bar.update()
            if isinstance(decoded, Skipped):
                unusable.append(Skipped(str(clip.source), decoded.reason))
    return unusable


def report_broken(broken: Sequence[Skipped], skip: bool) -> None:
    """Warn about unusable files, by name.

    Raises:
        LabelsError: if they may not be skipped.
    """
    if not broken:
        return
    lines = indented([f"{file.id}: {file.reason}" for file in broken])
    found = f"{plural(len(broken), 'file')} can't be used:{lines}"
    if not skip:
        raise LabelsError(f"{found}\nfix them, or leave them out with --skip-broken")
    log.warning("%s\nthese files are left out", found)


def _draw_valid(rows: Sequence[LabeledRow], config: FinetuneConfig) -> list[LabeledRow]:
    """Move `config.valid_fraction` of each class's training clips to validation."""
    order = [index for index, row in enumerate(rows) if row.split == "train"]
    random.Random(config.seed).shuffle(order)
    count = Counter(name for index in order for name in rows[index].clip.labels or ("",))
    left = {name: min(n - 1, round(config.valid_fraction * n)) for name, n in count.items()}
    drawn = list(rows)
    for index in order:
        names = rows[index].clip.labels or ("",)
        if all(left[name] > 0 for name in names):
            drawn[index] = rows[index]._replace(split="valid")
            left.update({name: left[name] - 1 for name in names})
    return drawn


def class_names(clips: Sequence[AudioClip]) -> tuple[str, ...]:
    """The classes of clips, in alphabetical order."""
    return tuple(sorted({name for clip in clips for name in clip.labels}))
