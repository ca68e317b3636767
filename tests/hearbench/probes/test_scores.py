"""Scores of the engine `fast` against heareval's functions."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("heareval", reason="heareval is not installed: make setup")

from heareval.score import available_scores

from hearbench.probes.fast.scores import METRICS


@given(
    st.integers(2, 60),
    st.integers(2, 30),
    st.sampled_from(["one", "some", "empty class", "full class"]),
    st.sampled_from([1, 2, 8]),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=60)
def test_scores_are_heareval_s(clips: int, classes: int, kind: str, digits: int, seed: int) -> None:
    """Few digits make ties; empty and full classes have no ROC curve."""
    rng = np.random.default_rng(seed)
    targets = np.eye(classes, dtype=np.float32)[rng.integers(classes, size=clips)]
    if kind != "one":
        targets = (rng.random((clips, classes)) < 0.3).astype(np.float32)
    if kind.endswith("class"):
        targets[:, 0] = kind == "full class"
    good = rng.random()
    predictions = (good * targets + (1 - good) * rng.random(targets.shape)).round(digits)
    predictions = predictions.astype(np.float32)
    labels = {str(c): c for c in range(classes)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's about classes without a curve
        expected = {
            name: available_scores[name](label_to_idx=labels)(predictions, targets)
            for name in METRICS
        }
    tensors = torch.from_numpy(predictions), torch.from_numpy(targets)
    found = {name: score(*tensors) for name, score in METRICS.items()}
    assert found == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_a_perfect_ranking_has_an_infinite_d_prime() -> None:
    targets = torch.eye(2).repeat(3, 1)
    assert METRICS["d_prime"](targets, targets) == float("inf")
    assert METRICS["aucroc"](targets, targets) == METRICS["mAP"](targets, targets) == 1
