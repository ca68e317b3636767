"""A task's embeddings as heareval wrote them: splits, labels, and what is learned from what."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hearbench.probes.batched.grid import FIXED, own_grid
from hearbench.probes.batched.scores import SCORES
from hearbench.tasks.description import cross_validation_folds


class ProbeError(ValueError):
    """A task, or its embeddings, that no probe is trained for here, and why."""


@dataclass(frozen=True)
class Split:
    """Which parts of the data are learned from, watched and tested on."""

    train: tuple[str, ...]
    valid: str
    test: str


class Task:
    """The embeddings and labels of one task.

    Args:
        embeddings: heareval's folder of one task.

    Raises:
        ProbeError: if the task is one for heareval, or a file is missing or not as it should be.
    """

    def __init__(self, embeddings: Path) -> None:
        self.embeddings = embeddings
        self.metadata = read_metadata(embeddings)
        if reason := reason_against(self.metadata):
            raise ProbeError(f"{embeddings}: {reason}; use heareval for this task")
        self.multilabel = self.metadata["prediction_type"] == "multilabel"
        self.splits = _splits(self.metadata)
        vocabulary = pd.read_csv(embeddings / "labelvocabulary.csv")
        self._index = dict(zip(vocabulary["label"].astype(str), vocabulary["idx"], strict=True))
        self.classes = len(vocabulary)
        self._parts = {part: self._read(part) for part in self.metadata["splits"]}
        self.features = next(iter(self._parts.values()))[0].shape[1]
        if len({x.shape[1] for x, _ in self._parts.values()}) > 1:
            raise ProbeError(f"{embeddings}: the splits differ in embedding size: embed again")

    def rows(self, *parts: str) -> tuple[Tensor, Tensor]:
        """Embeddings ``[N, D]`` and targets ``[N, C]``, 0 or 1, of parts one after the other."""
        x, y = zip(*(self._parts[part] for part in parts), strict=True)
        return torch.cat(x), torch.cat(y)

    @property
    def clips(self) -> int:
        """Of the largest training set, at most."""
        return sum(len(x) for x, _ in self._parts.values())

    def predictions(self, logits: Tensor) -> Tensor:
        """Probabilities ``[..., C]`` of logits ``[..., C]``."""
        return logits.sigmoid() if self.multilabel else logits.softmax(-1)

    def _read(self, part: str) -> tuple[Tensor, Tensor]:
        def file(kind: str) -> Path:
            return self.embeddings / f"{part}.{kind}"

        try:
            shape = tuple(json.loads(file("embedding-dimensions.json").read_text()))
            x = torch.from_numpy(np.fromfile(file("embeddings.npy"), np.float32).reshape(shape))
            labels = pickle.loads(file("target-labels.pkl").read_bytes())
        except (OSError, ValueError, pickle.UnpicklingError, EOFError) as error:
            raise ProbeError(f"{self.embeddings}: {part} can't be read ({error})") from error
        if len(labels) != len(x):
            raise ProbeError(f"{file('target-labels.pkl')}: {len(labels)} for {len(x)} embeddings")
        if not torch.isfinite(x).all():
            raise ProbeError(f"{file('embeddings.npy')} holds NaN or infinity: check the model")
        y = torch.zeros(len(x), self.classes)
        for row, names in enumerate(labels):
            for name in names:
                if str(name) not in self._index:
                    raise ProbeError(f"{part}: label {name!r} is not in labelvocabulary.csv")
                y[row, self._index[str(name)]] = 1.0
        if not self.multilabel and not (y.sum(1) == 1).all():
            raise ProbeError(f"{part}: a multiclass task has exactly one label a clip")
        return x, y


def read_metadata(folder: Path) -> dict[str, Any]:
    """A folder's task_metadata.json.

    Raises:
        ProbeError: if it is missing or no JSON.
    """
    file = folder / "task_metadata.json"
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ProbeError(f"{file} can't be read: {error}") from error


def reason_against(metadata: Mapping[str, Any]) -> str | None:
    """Why this engine can't do a task; None if it can."""
    for name, possible in (
        ("embedding_type", ["scene"]),
        ("prediction_type", ["multiclass", "multilabel"]),
        ("split_mode", ["trainvaltest", "new_split_kfold", "presplit_kfold"]),
    ):
        if metadata.get(name) not in possible:
            return f"{name} {metadata.get(name)!r} is not {' or '.join(possible)}"
    if unknown := [name for name in metadata["evaluation"] if name not in SCORES]:
        return f"{unknown[0]} is none of the scores {', '.join(SCORES)}"
    if fixed := [name for name in own_grid(metadata) if name in FIXED]:
        return f"its own grid sets {fixed[0]}"
    return None


def _splits(metadata: Mapping[str, Any]) -> list[Split]:
    if metadata["split_mode"] == "trainvaltest":
        return [Split(("train",), "valid", "test")]
    return [Split(*names) for names in cross_validation_folds(metadata["splits"])]
