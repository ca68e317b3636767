"""Settings of a fine-tuning, as plain data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hear_axlstm.ops.precision import Precision

Mode = Literal["linear", "mlp", "full"]
Metric = Literal["accuracy", "balanced_accuracy", "mAP", "AUC"]

MLP_WIDTH = 1024


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of a fine-tuning.

    Raises:
        ValueError: for a value that can't be trained with.
    """

    mode: Mode = "linear"
    """A linear probe or an MLP on frozen embeddings; or "full", which starts from the linear probe
    and goes on through the encoder."""
    model: str = ""
    """The encoder, as `load_model` takes it."""
    labels: str = "label"
    """Column of the classes; by default also labels, category or class."""
    path_column: str | None = None
    """Column of the paths; by default a usual name such as path or filename."""
    multilabel: bool = False
    """A clip may be of several classes, or of none."""
    separator: str = ";"
    """What separates the classes of a clip."""
    valid: Path | None = None
    """CSV of the clips that decide when to stop."""
    valid_fold: str | None = None
    """The same from the training CSV: the rows whose column fold has this value."""
    valid_fraction: float = 0.2
    """Share of each class' training clips drawn for the same, where neither these two nor a column
    split (train, valid or test) tell."""
    test: Path | None = None
    """CSV of the clips that are scored at the end."""
    test_fold: str | None = None
    """The same by fold."""
    skip_broken: bool = False
    """Leave out files that are missing or damaged, instead of stopping."""
    metric: Metric | None = None
    """What the best checkpoint is best in, on the validation clips; by default accuracy, or mAP if
    multilabel."""
    epochs: int | None = None
    """Passes over the training clips, at most: by default 200 of the probe, 30 of "full"."""
    patience: int | None = None
    """Stop after so many epochs without improvement: by default 20 of the probe, 5 of "full"."""
    batch_size: int | None = None
    """Clips of an optimizer step: by default 64 of the probe, 16 of "full"."""
    lr: float | None = None
    """Peak learning rate of the head: by default 3e-4 of an MLP, else 1e-3."""
    encoder_lr: float = 1e-4
    """Peak learning rate of the encoder."""
    weight_decay: float = 0.1
    """AdamW's."""
    dropout: float = 0.5
    """Of the embedding on its way into the head, and of the MLP's hidden layer."""
    crop_seconds: float = 10.0
    """"full" learns from a random crop of each longer clip."""
    seed: int = 0
    """Fixes the split, the order, crops and dropout."""
    device: str = "auto"
    """"auto" takes CUDA, then Apple's MPS, then the CPU; or a torch device such as "cuda:1"."""
    precision: Precision = "auto"
    """Of the encoder while it is trained; "auto" takes bfloat16 where the hardware is faster with
    it. Embeddings for the probe and for scores are computed in float32."""

    def __post_init__(self) -> None:
        above_zero = ("epochs", "patience", "batch_size", "lr", "encoder_lr", "crop_seconds")
        for name in above_zero:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}={value} must be a number above 0")
        if not 0 < self.valid_fraction < 1:
            raise ValueError(f"valid_fraction={self.valid_fraction} must lie between 0 and 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and below 1")
        if self.seed < 0 or not 0 <= self.weight_decay < math.inf:
            raise ValueError(
                f"seed={self.seed} and weight_decay={self.weight_decay} must be numbers from 0 on"
            )
        if not self.separator:
            raise ValueError("separator is empty: give what stands between the classes of a clip")
        if self.multilabel and self.metric in ("accuracy", "balanced_accuracy"):
            raise ValueError(f"metric={self.metric!r} is for one class a clip: take mAP or AUC")
        for name in ("valid", "test"):
            if getattr(self, name) and getattr(self, f"{name}_fold"):
                raise ValueError(f"{name} and {name}_fold both tell the {name} clips: give one")
        if self.valid_fold is not None and self.valid_fold == self.test_fold:
            raise ValueError(
                f"valid_fold and test_fold are both {self.test_fold!r}: take two folds"
            )

    @property
    def watched(self) -> Metric:
        """The metric that chooses the best checkpoint."""
        return self.metric or ("mAP" if self.multilabel else "accuracy")

    @property
    def head_lr(self) -> float:
        """Peak learning rate of the head."""
        return self.lr or (3e-4 if self.mode == "mlp" else 1e-3)

    def to_dict(self) -> dict[str, Any]:
        """Every setting as JSON-ready data."""
        settings = asdict(self)
        return {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}
