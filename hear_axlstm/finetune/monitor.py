"""Evaluation during fine-tuning: the validation clips are scored, the best classifier is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hear_axlstm.finetune.classifier import CLASSIFIER_FILE, Classifier, logits_of
from hear_axlstm.finetune.config import FinetuneConfig
from hear_axlstm.finetune.dataset import Dataset
from hear_axlstm.finetune.early_stopping import Best
from hear_axlstm.finetune.metrics import named, scores
from hear_axlstm.training.trainer import DivergedError, Trainer

PATIENCE = 5


class FinetuneMonitor:
    """Scores the validation clips after each epoch, keeps the best classifier, stops early.

    Args:
        classifier: the classifier being trained.
        dataset: its validation clips are scored.
        config: metric, patience and precision.
        trainer: trainer of the run.
    """

    def __init__(
        self, classifier: Classifier, dataset: Dataset, config: FinetuneConfig, trainer: Trainer
    ) -> None:
        self.classifier, self.dataset, self.config = classifier, dataset, config
        self.trainer, self.best = trainer, Best(config.watched)

    @property
    def is_over(self) -> bool:
        """Whether `patience` epochs have passed without improvement."""
        return self.best.waited >= (self.config.patience or PATIENCE)

    def on_start(self) -> None:
        """Score the linear probe on the pretrained encoder, as the baseline to improve on."""
        if self.best.score == -math.inf:  # else resumed
            self._score(0, 0.0)
        self._set_training()

    def on_epoch_end(self, step: int, epoch: float, last: bool) -> None:
        """Score the validation clips; see `training.trainer.Monitor`."""
        self._score(step, epoch)
        self._set_training()

    def state(self) -> Mapping[str, Any]:
        """Return the best epoch so far."""
        return {"best": asdict(self.best)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the best epoch so far."""
        self.best = Best(**state["best"])

    def _set_training(self) -> None:
        self.classifier.train()
        self.classifier.precision = self.config.precision

    def _score(self, step: int, epoch: float) -> None:
        lines = self.trainer.log
        assert lines is not None
        self.classifier.precision = "float32"
        self.classifier.infer()
        logits = logits_of(self.classifier, self.dataset.splits["valid"])
        if not logits.isfinite().all():
            raise DivergedError(
                f"the logits are not finite after step {step}: lower lr and encoder_lr, "
                f"now {self.config.head_lr:g} and {self.config.encoder_lr:g}, in a new folder"
            )
        found = scores(self.classifier.labels, logits, self.dataset.targets("valid"))
        lines.write(step=step, epoch=epoch, **named("valid", found))
        if self.best.take(found):
            self.classifier.save(self.trainer.run / CLASSIFIER_FILE, {"epoch": epoch})
