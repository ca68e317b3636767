"""The best epoch of a training run."""

from __future__ import annotations

import math

import pytest

from hear_axlstm.finetune.early_stopping import Best


def test_ties_are_broken_by_the_loss_and_epochs_since_the_best_are_counted() -> None:
    best = Best("accuracy")
    epochs = [(0.5, 1.0), (0.5, 1.0), (0.4, 0.1), (0.5, 0.9), (0.6, 2.0), (0.5, 0.1)]
    taken = [best.take({"accuracy": score, "loss": loss}) for score, loss in epochs]
    assert taken == [True, False, False, True, True, False]
    assert (best.score, best.loss, best.waited) == (0.6, 2.0, 1)


def test_a_metric_that_is_not_defined_is_an_error() -> None:
    with pytest.raises(ValueError, match="mAP is not defined on the validation clips"):
        Best("mAP").take({"mAP": math.nan, "loss": 0.0})
