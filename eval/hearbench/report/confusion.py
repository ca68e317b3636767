"""Confusion matrices and per-class scores, from the stored test predictions."""

from __future__ import annotations

import csv
import json
import pickle
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score, confusion_matrix

from hearbench.run.plan import EvaluatedSystem, Plan
from hearbench.tasks.folders import Task

SUFFIX = ".predictions.pkl"


@dataclass(frozen=True)
class ClassScore:
    """One class, over all seeds."""

    label: str
    clips: int
    """Number of test clips of this class, over all folds."""
    percent: float
    """Recall for single-label tasks, else average precision; the mean over seeds."""
    taken_for: str
    """The class it is most often confused with; empty if none, or for multilabel tasks."""
    share: float
    """Percentage of its clips that are confused with it."""


@dataclass(frozen=True)
class Mistakes:
    """The classes of a task for one system."""

    system: str
    task: str
    labels: tuple[str, ...]
    confusion: np.ndarray | None
    """[true, predicted] in percent of the true class; None for multilabel tasks."""
    classes: tuple[ClassScore, ...]
    """The classes, worst first."""


def mistakes(plan: Plan, system: EvaluatedSystem, task: Task) -> Mistakes | None:
    """Read the test predictions of every finished seed.

    Returns:
        None for an event task, whose predictions are for frames, if no seed is finished, or if the
        task's description was a link into embeddings that have been deleted.
    """
    finished = [seed for seed in range(plan.seeds) if plan.finished(system, task, seed)]
    folders = [plan.predictions(system, task, seed) for seed in finished]
    if not folders:
        return None
    try:
        metadata = json.loads((folders[0] / "task_metadata.json").read_text("utf-8"))
        labels = _labels(folders[0])
    except FileNotFoundError:
        return None
    if metadata["embedding_type"] != "scene":
        return None
    seeds = [[_read(file) for file in sorted(f.glob(f"*{SUFFIX}"))] for f in folders]
    if not all(seeds):
        return None
    name, label = task.path.name, system.label
    if metadata["prediction_type"] == "multiclass":
        pairs = zip(*(fold for of_seed in seeds for fold in of_seed), strict=True)
        truth, guess = (np.concatenate([part.argmax(1) for part in parts]) for parts in pairs)
        counts = confusion_matrix(truth, guess, labels=range(len(labels)))
        clips = counts.sum(1, keepdims=True)
        confusion = 100.0 * counts / np.maximum(clips, 1)
        per_class = _recalls(labels, confusion, clips[:, 0] // len(seeds))
        return Mistakes(label, name, labels, confusion, per_class)
    return Mistakes(label, name, labels, None, _precisions(labels, seeds))


def _recalls(
    labels: tuple[str, ...], confusion: np.ndarray, clips: np.ndarray
) -> tuple[ClassScore, ...]:
    scores = []
    for index in np.flatnonzero(clips):
        others = confusion[index].copy()
        others[index] = 0.0
        rival = int(others.argmax())
        taken_for = labels[rival] if others[rival] else ""
        recall = float(confusion[index, index])
        share = float(others[rival])
        scores.append(ClassScore(labels[index], int(clips[index]), recall, taken_for, share))
    return tuple(sorted(scores, key=lambda score: score.percent))


def _precisions(
    labels: tuple[str, ...], seeds: list[list[tuple[np.ndarray, np.ndarray]]]
) -> tuple[ClassScore, ...]:
    found: dict[int, list[float]] = {}
    for folds in seeds:
        for target, prediction in folds:
            present = np.flatnonzero(target.any(0))
            if not len(present):
                continue
            values = average_precision_score(
                target[:, present], prediction[:, present], average=None
            )
            for index, value in zip(present, np.atleast_1d(values), strict=True):
                found.setdefault(int(index), []).append(100.0 * float(value))
    clips = sum(target.sum(0) for target, _ in seeds[0])
    scores = [
        ClassScore(labels[index], int(clips[index]), fmean(values), "", 0.0)
        for index, values in found.items()
    ]
    return tuple(sorted(scores, key=lambda score: score.percent))


def _labels(folder: Path) -> tuple[str, ...]:
    with (folder / "labelvocabulary.csv").open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["idx"]))
    return tuple(row["label"] for row in rows)


def _read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Targets and predictions of one test split, [clips, classes] each."""
    stored = _TensorsOnly(BytesIO(file.read_bytes())).load()
    return stored["target"].numpy(), stored["prediction"].numpy()


class _TensorsOnly(pickle.Unpickler):
    """Unpickler for tensors that rejects everything else in a file."""

    def find_class(self, module: str, name: str) -> Any:
        """Look up one of the few names that a pickled tensor needs."""
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return lambda raw: torch.load(BytesIO(raw), weights_only=True)
        if (module, name) in (
            ("torch._utils", "_rebuild_tensor_v2"),
            ("collections", "OrderedDict"),
        ):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a tensor")
