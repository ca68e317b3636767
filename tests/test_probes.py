"""The batched probes against heareval itself, and what they leave behind."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.adam import adam

from tests.probe_task import write_embeddings

pytest.importorskip("heareval", reason="heareval is not installed: make setup")

from eval import kit, probes
from eval.probes import stack
from eval.probes.grid import draw
from eval.probes.stack import derived_seeds, initial

Probe = Callable[..., torch.nn.Module]


def started_alike(seed: int, metadata: dict[str, Any], probe_class: Probe) -> Probe:
    """Heareval's probe, but starting from what ours starts from."""
    points = draw("paper", metadata, seed)
    made: list[dict[str, Any]] = []

    def make(features: int, classes: int, kind: str, conf: dict[str, Any]) -> torch.nn.Module:
        probe = probe_class(features, classes, kind, conf)
        number = [point.conf for point in points].index(conf)
        made.append(conf)
        split = max(0, len(made) - len(points))
        start, _ = derived_seeds((seed, split, number))
        tensors = initial(points[number], start, features, classes)
        with torch.no_grad():
            for parameter, tensor in zip(probe.parameters(), tensors, strict=True):
                parameter.copy_(tensor.T)
        for layer in probe.hidden.children():
            if isinstance(layer, torch.nn.Linear):
                layer.bias.requires_grad_(False)
        return probe

    return make


def without_noise(parameters: list[Tensor], gradients: list[Tensor], **options: Any) -> None:
    """Adam that leaves biases alone which BatchNorm cancels.

    Their gradient is zero but for rounding, and Adam turns that into steps of full size.
    """
    for i in range(1, len(parameters) - 2, 4):
        gradients[i] = torch.zeros_like(gradients[i])
    adam(parameters, gradients, **options)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    results = json.loads((folder / kit.SCORES).read_text())
    tests = {k: v for k, v in results.items() if isinstance(v, dict) and "epoch" in v}
    return results, tests


@pytest.mark.parametrize(
    ("folds", "options"),
    [(0, {}), (4, {}), (0, {"multilabel": True}), (0, {"hidden_layers": [2, 0]})],
    ids=["split", "folds", "multilabel", "layers"],
)
def test_heareval_learns_the_same(
    folds: int, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same start and without dropout: the same epochs, scores and predictions."""
    from heareval.predictions import task_predictions

    monkeypatch.setattr(stack, "adam", without_noise)
    embeddings = write_embeddings(tmp_path / "task", folds, dropout=[0.0], **options)
    metadata = json.loads((embeddings / "task_metadata.json").read_text())
    make = started_alike(3, metadata, task_predictions.FullyConnectedPrediction)
    with kit.rebound(task_predictions, FullyConnectedPrediction=make):
        kit.predict(embeddings, tmp_path / "theirs", 3, "paper")
    folders = {3: tmp_path / "ours", 4: tmp_path / "other"}
    probes.predict(embeddings, folders, "paper", precision="float32")
    (ours, our_tests), (theirs, their_tests) = read(tmp_path / "ours"), read(tmp_path / "theirs")
    assert list(ours) == list(theirs) and ours["score_mode"] == theirs["score_mode"]
    assert {**ours["hparams"], "initialization": ""} == {**theirs["hparams"], "initialization": ""}
    for name, test in their_tests.items():
        del test["time_in_min"], our_tests[name]["time_in_min"]
        assert our_tests[name].pop("epoch") == test.pop("epoch")
        assert our_tests[name] == pytest.approx(test, abs=1e-4)
        file = f"{name}.predictions.pkl"
        one, other = (pickle.loads((tmp_path / w / file).read_bytes()) for w in ("ours", "theirs"))
        assert list(one) == list(other)
        for key in one:
            torch.testing.assert_close(one[key], other[key], atol=1e-3, rtol=1e-3)
    assert kit.finished(tmp_path / "other")
