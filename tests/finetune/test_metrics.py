"""Scores and confusion matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from hear_axlstm.finetune.classifier import Labels
from hear_axlstm.finetune.metrics import draw_confusion, scores


def test_scores_are_those_of_the_classes_that_occur() -> None:
    rng = np.random.default_rng(0)
    logits, targets = torch.from_numpy(rng.normal(size=(50, 4))), torch.arange(50) % 3
    found = scores(Labels(tuple("abcd"), False), logits, targets)
    of_class = np.eye(4)[targets][:, :3], logits.softmax(1)[:, :3]
    assert found["mAP"] == pytest.approx(average_precision_score(*of_class))
    assert found["AUC"] == pytest.approx(roc_auc_score(*of_class))
    recalls = [(logits.argmax(1) == c)[targets == c].float().mean().item() for c in range(3)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))


def test_the_confusion_of_many_classes_is_a_small_picture(tmp_path: Path) -> None:
    labels = Labels(tuple(f"{number:04}" for number in range(400)), False)
    picture = tmp_path / "confusion.png"
    draw_confusion(labels, torch.eye(400), torch.arange(400), "all right", picture)
    with Image.open(picture) as image:
        assert max(image.size) <= 3_500


def test_names_are_not_formulas(tmp_path: Path) -> None:
    labels = Labels(("$_$", "cash $5-$10", r"\$"), False)
    draw_confusion(labels, torch.eye(3), torch.arange(3), "$a^$", tmp_path / "confusion.png")
