"""The file of a classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hear_axlstm.finetune.classifier import Classifier, Labels, load_classifier
from tests.embed.test_ambient import MODES
from tests.helpers.labeled import SMALL


def test_a_classifier_of_another_size_is_refused(tmp_path: Path) -> None:
    model = Classifier(SMALL, Labels(("a", "b"), False))
    model.labels = Labels(("a", "b", "c"), False)
    model.save(tmp_path / "classifier.safetensors", {})
    with pytest.raises(ValueError, match="do not fit its settings"):
        load_classifier(tmp_path)


def test_loading_has_no_effect_on_the_caller_nor_the_mode_on_training(tmp_path: Path) -> None:
    Classifier(SMALL, Labels(("a", "b"), False), 8).save(tmp_path / "classifier.safetensors", {})
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with torch.inference_mode():
        classifier = load_classifier(tmp_path)
    assert torch.equal(torch.rand(1), expected)
    classifier.train()
    classifier.head(classifier.scene(torch.zeros(2, 8_000))).sum().backward()
    assert all(p.grad is not None for p in classifier.parameters())


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_of_torch_changes_no_prediction(mode: str, tmp_path: Path) -> None:
    Classifier(SMALL, Labels(("a", "b"), False)).save(tmp_path / "classifier.safetensors", {})
    audio = np.random.default_rng(0).normal(0, 0.1, 20_000).astype("f4")
    expected = load_classifier(tmp_path).predict_proba(audio)
    with MODES[mode]():
        found = load_classifier(tmp_path).predict_proba(audio)
    np.testing.assert_allclose(found, expected, atol=1e-6)
