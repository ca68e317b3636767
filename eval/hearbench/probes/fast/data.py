"""A task's embeddings and labels as tensors, and its training, validation and test splits.

Shapes: N clips, D embedding size, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hearbench.embed.files import row_order
from hearbench.errors import HearbenchError
from hearbench.probes.fast.scores import METRICS
from hearbench.probes.grid import FIXED
from hearbench.tasks.description import (
    Description,
    TaskError,
    cross_validation_folds,
    describe,
    own_grid,
    read_metadata,
)


class ProbeError(HearbenchError, ValueError):
    """Raised for embeddings or labels that this engine can't train on; the message says why."""


@dataclass(frozen=True)
class Fold:
    """The splits that train, validate and test a probe."""

    train: tuple[str, ...]
    valid: str
    test: str


class ProbeData:
    """The embeddings and labels of one task.

    Labels are read from the JSON next to the embeddings; only heareval uses the pickled labels.

    Args:
        embeddings: folder as heareval or `hearbench.embed` writes it.

    Raises:
        ProbeError: if only heareval supports the task, or a file is missing or damaged.
    """

    def __init__(self, embeddings: Path) -> None:
        self.embeddings = embeddings
        try:
            if reason := reason_against(read_metadata(embeddings)):
                raise ProbeError(f"{embeddings}: {reason}; use heareval for this task")
            self.description = describe(embeddings)
        except TaskError as error:
            raise ProbeError(str(error)) from error
        self.metadata = self.description.metadata
        self.multilabel = self.metadata["prediction_type"] == "multilabel"
        self.folds = _folds(self.metadata)
        self.classes = len(self.description.vocabulary)
        targets = _targets(self.description)
        self._parts = {split: (self._rows(split, len(y)), y) for split, y in targets.items()}
        self.features = next(iter(self._parts.values()))[0].shape[1]
        if len({x.shape[1] for x, _ in self._parts.values()}) > 1:
            raise ProbeError(f"{embeddings}: the splits differ in embedding size: embed again")

    def rows(self, *splits: str) -> tuple[Tensor, Tensor]:
        """Embeddings [N, D] and targets [N, C], 0 or 1, of concatenated splits."""
        x, y = zip(*(self._parts[split] for split in splits), strict=True)
        return torch.cat(x), torch.cat(y)

    @property
    def clips(self) -> int:
        """Number of clips in all splits."""
        return sum(len(x) for x, _ in self._parts.values())

    def predictions(self, logits: Tensor) -> Tensor:
        """Convert logits [..., C] to probabilities [..., C]."""
        return logits.sigmoid() if self.multilabel else logits.softmax(-1)

    def _rows(self, split: str, clips: int) -> Tensor:
        file = self.embeddings / f"{split}.embeddings.npy"
        try:
            text = (self.embeddings / f"{split}.embedding-dimensions.json").read_text("utf-8")
            x = torch.from_numpy(np.fromfile(file, np.float32).reshape(json.loads(text)))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise ProbeError(f"{self.embeddings}: {split} can't be read ({error})") from error
        if x.ndim != 2 or len(x) != clips:
            raise ProbeError(f"{file}: shape {list(x.shape)} for {clips} clips: embed again")
        if not torch.isfinite(x).all():
            raise ProbeError(f"{file} contains NaN or infinity: check the model")
        return x


def reason_against(metadata: Mapping[str, Any]) -> str | None:
    """Why this engine does not support a task with this metadata; None if it does."""
    if metadata["embedding_type"] != "scene":
        return f"embedding_type {metadata['embedding_type']!r} is not scene"
    if unknown := [name for name in metadata["evaluation"] if name not in METRICS]:
        return f"{unknown[0]} is not one of the scores {', '.join(METRICS)}"
    if fixed := [name for name in own_grid(metadata) if name in FIXED]:
        return f"its own grid sets {fixed[0]}"
    return None


def _targets(description: Description) -> dict[str, Tensor]:
    """Split -> [N, C], in the order of the embeddings' rows."""
    index = {label: number for number, label in enumerate(description.vocabulary)}
    targets = {}
    for split, clips in row_order(description.labels).items():
        y = torch.zeros(len(clips), len(index))
        for row, clip in enumerate(clips):
            for label in description.labels[split][clip]:
                y[row, index[str(label)]] = 1.0
        targets[split] = y
    return targets


def _folds(metadata: Mapping[str, Any]) -> list[Fold]:
    if metadata["split_mode"] == "trainvaltest":
        return [Fold(("train",), "valid", "test")]
    return [Fold(*names) for names in cross_validation_folds(metadata["splits"])]
