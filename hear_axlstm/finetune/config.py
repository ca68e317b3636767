"""Settings of fine-tuning, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from hear_axlstm.config import Pooling
from hear_axlstm.options import POOLINGS, option
from hear_axlstm.training.config import RunConfig, check_positive

Mode = Literal["linear", "mlp", "full"]
Metric = Literal["accuracy", "balanced_accuracy", "mAP", "AUC"]

MLP_WIDTH = 1024


@dataclass(frozen=True)
class TrainConfig:
    """Model, data and training settings of a classifier; a resumed run must keep them.

    Raises:
        ValueError: for an invalid value.
    """

    mode: Mode = "linear"
    """What to train: a "linear" or "mlp" head, or "full": first a linear head, with the default
    epochs, patience and batch size of a head, then encoder and head together."""
    model: Annotated[str, option("WEIGHTS")] = ""
    """Encoder: name of weights, file, folder or hf://org/repo (default: axlstm_tiny)."""
    pooling: Annotated[Pooling | None, option(POOLINGS)] = None
    """Embedding of a clip: "mean" over its time steps, or "mean_std", mean and standard deviation
    (default: as recorded in the weights, usually mean)."""
    labels: Annotated[str, option("COLUMN")] = "label"
    """Column of the class labels (default: label, labels, category or class)."""
    path_column: Annotated[str | None, option("COLUMN")] = None
    """Column of paths (default: a usual name such as path or filename)."""
    multilabel: bool = False
    """Allow any number of classes per clip, including none."""
    separator: str = ";"
    """Separator between the classes of a clip."""
    valid: Annotated[Path | None, option("CSV")] = None
    """CSV of the validation clips, which decide when to stop."""
    valid_fold: Annotated[str | None, option("FOLD")] = None
    """Validation clips from the training CSV: rows with this value in the column fold."""
    valid_fraction: float = 0.2
    """Share of each class's training clips to validate on, if no others are given."""
    test: Annotated[Path | None, option("CSV")] = None
    """CSV of the test clips, which are scored at the end."""
    test_fold: Annotated[str | None, option("FOLD")] = None
    """Test clips from the training CSV: rows with this value in the column fold."""
    skip_broken: bool = False
    """Leave out missing, damaged or silent files instead of stopping."""
    metric: Annotated[Metric | None, option("{accuracy,balanced_accuracy,mAP,AUC}")] = None
    """Validation metric that selects the best epoch (default: accuracy; mAP if multilabel)."""
    epochs: Annotated[int | None, option("N")] = None
    """Maximum number of epochs (default: 200 for a head, 30 for "full")."""
    patience: Annotated[int | None, option("N")] = None
    """Epochs without improvement before stopping (default: 20 for a head, 5 for "full")."""
    batch_size: Annotated[int | None, option("N")] = None
    """Clips per optimizer step (default: 64 for a head, 16 for "full")."""
    lr: Annotated[float | None, option("RATE")] = None
    """Peak learning rate of the head (default: 3e-4 for an MLP, else 1e-3)."""
    encoder_lr: float = 1e-4
    """Peak learning rate of the encoder."""
    weight_decay: float = 0.1
    """AdamW weight decay."""
    dropout: float = 0.5
    """Dropout on the embedding and on the hidden layer of the MLP."""
    crop_seconds: float = 10.0
    """Length in seconds of the random crops that "full" trains on."""
    seed: int = 0
    """Seed of the split, the order, the crops and dropout."""

    def __post_init__(self) -> None:
        above_zero = ("epochs", "patience", "batch_size", "lr", "encoder_lr", "crop_seconds")
        check_positive(self, optional=above_zero)
        if self.mode == "mlp" and self.batch_size == 1:
            raise ValueError("batch_size=1: the batch norm of an MLP needs 2 or more")
        if not 0 < self.valid_fraction < 1:
            raise ValueError(f"valid_fraction={self.valid_fraction} must be between 0 and 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and below 1")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay={self.weight_decay} must be at least 0")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must not be negative")
        if not self.separator:
            raise ValueError("separator is empty: give the separator between the classes of a clip")
        if self.multilabel and self.metric in ("accuracy", "balanced_accuracy"):
            raise ValueError(f"metric={self.metric!r} needs one class per clip: use mAP or AUC")
        for name in ("valid", "test"):
            if getattr(self, name) and getattr(self, f"{name}_fold"):
                raise ValueError(f"{name} and {name}_fold both name the {name} clips: give one")
        if self.valid_fold is not None and self.valid_fold == self.test_fold:
            raise ValueError(
                f"valid_fold and test_fold are both {self.test_fold!r}: use two different folds"
            )

    @property
    def watched(self) -> Metric:
        """The metric that selects the best checkpoint."""
        return self.metric or ("mAP" if self.multilabel else "accuracy")

    @property
    def head_lr(self) -> float:
        """Peak learning rate of the head."""
        return self.lr or (3e-4 if self.mode == "mlp" else 1e-3)


@dataclass(frozen=True)
class FinetuneConfig(RunConfig, TrainConfig):
    """All settings of fine-tuning: `TrainConfig` and execution settings.

    Raises:
        ValueError: for an invalid value.
    """

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        RunConfig.__post_init__(self)

    def to_dict(self) -> dict[str, Any]:
        """Every setting as JSON-ready data."""
        settings = asdict(self)
        return {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}

    def conflicts(self, settings: Mapping[str, Any]) -> list[str]:
        """Names of settings that conflict with those of a run to resume, given by `to_dict`."""
        own = self.to_dict()
        return [
            f.name for f in fields(TrainConfig) if own[f.name] != settings.get(f.name, f.default)
        ]
