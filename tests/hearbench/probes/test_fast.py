"""The engine `fast` against heareval itself, and what they leave behind."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import ParameterGrid

from tests.helpers.probe_task import SMALL, write_embeddings

pytest.importorskip("heareval", reason="heareval is not installed: make setup")

from hearbench.probes import fast, official
from hearbench.probes.fast import hardware, probes, results, train
from hearbench.probes.fast.data import ProbeData
from hearbench.probes.fast.randomness import Dropout, derived_seeds, initial
from hearbench.probes.fast.train import Fit, ProbeState, Trainer
from hearbench.probes.grid import GRID_POINTS, Grid, draw, paper_grid
from hearbench.probes.official import HearevalError
from hearbench.probes.runs import DONE, SCORES, ProductType, finished

Probe = Callable[..., torch.nn.Module]


def started_alike(seed: int, metadata: dict[str, Any], probe_class: Probe, still: bool) -> Probe:
    """Heareval's probe, but starting from what ours starts from.

    If `still`, biases that BatchNorm cancels don't follow their rounding errors, as in ours.
    """
    points = draw("paper", metadata, seed)
    made: list[dict[str, Any]] = []

    def make(features: int, classes: int, kind: str, conf: dict[str, Any]) -> torch.nn.Module:
        probe = probe_class(features, classes, kind, conf)
        number = [point.conf for point in points].index(conf)
        made.append(conf)
        fold = max(0, len(made) - len(points))
        start, _ = derived_seeds((seed, fold, number))
        tensors = initial(points[number], start, features, classes)
        with torch.no_grad():
            for parameter, tensor in zip(probe.parameters(), tensors, strict=True):
                parameter.copy_(tensor.T)
        for layer in probe.hidden.children():
            if still and isinstance(layer, torch.nn.Linear):
                layer.bias.requires_grad_(False)
        return probe

    return make


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    results = json.loads((folder / SCORES).read_text("utf-8"))
    tests = {k: v for k, v in results.items() if isinstance(v, dict) and "epoch" in v}
    return results, tests


@pytest.mark.parametrize(
    ("folds", "still", "options"),
    [
        (0, False, {}),
        (3, True, {}),
        (0, True, {"multilabel": True}),
        (0, True, {"hidden_layers": [2, 0]}),
    ],
    ids=["unmodified", "folds", "multilabel", "layers"],
)
def test_heareval_learns_the_same(
    folds: int, still: bool, options: dict[str, Any], tmp_path: Path
) -> None:
    """From the same start and without dropout: the same epochs, scores and predictions."""
    from heareval.predictions import task_predictions

    embeddings = write_embeddings(tmp_path / "task", folds, dropout=[0.0], **options)
    metadata = json.loads((embeddings / "task_metadata.json").read_text("utf-8"))
    make = started_alike(3, metadata, task_predictions.FullyConnectedPrediction, still)
    with mock.patch.multiple(task_predictions, FullyConnectedPrediction=make):
        official.train_and_test(embeddings, {3: tmp_path / "theirs"}, "paper", tmp_path / "log")
    folders = {3: tmp_path / "ours", 4: tmp_path / "other"}
    fast.train_and_test(embeddings, folders, "paper", tmp_path / "log", "float32")
    (ours, our_tests), (theirs, their_tests) = read(tmp_path / "ours"), read(tmp_path / "theirs")
    assert list(ours) == list(theirs) and ours["score_mode"] == theirs["score_mode"]
    assert {**ours["hparams"], "initialization": ""} == {**theirs["hparams"], "initialization": ""}
    for name, test in their_tests.items():
        del test["time_in_min"], our_tests[name]["time_in_min"]
        assert our_tests[name].pop("epoch") == test.pop("epoch")
        for score in ("test_score", "validation_score"):
            assert our_tests[name][score] == pytest.approx(test[score], abs=1e-4)
        tolerance = 1e-4 if still else 2e-3
        assert our_tests[name] == pytest.approx(test, abs=tolerance)
        file = f"{name}.predictions.pkl"
        one, other = (pickle.loads((tmp_path / w / file).read_bytes()) for w in ("ours", "theirs"))
        assert list(one) == list(other)
        for key in one:
            torch.testing.assert_close(one[key], other[key], atol=10 * tolerance, rtol=0)
    assert finished(tmp_path / "other")


@pytest.mark.parametrize("grid", ["paper", "heareval"])
def test_points_are_drawn_as_by_heareval(grid: Grid) -> None:
    from heareval.predictions.task_predictions import PARAM_GRID, seed_everything

    for seed in range(3):
        space = {**PARAM_GRID, **(paper_grid() if grid == "paper" else {})}
        seed_everything(seed)
        confs = list(ParameterGrid(space))
        random.shuffle(confs)
        drawn = [point.conf for point in draw(grid, {}, seed)]
        assert drawn == confs[: GRID_POINTS[grid]]


VALUES = st.sampled_from([0.1, 0.2, 0.3, 0.4, math.nan, math.inf, -math.inf])


@settings(deadline=None)  # the first call imports Lightning
@given(st.lists(VALUES, min_size=1, max_size=12), st.booleans())
def test_stopping_is_lightning_s(values: list[float], upward: bool) -> None:
    from pytorch_lightning.callbacks import EarlyStopping

    theirs = EarlyStopping("score", patience=3, mode="max" if upward else "min")
    ours = ProbeState(fit(patience=3))
    for epoch, value in enumerate(values):
        ours.update(value, epoch, upward)
        stop, _ = theirs._evaluate_stopping_criteria(torch.tensor(value))
        assert ours.stopped == stop
        if stop:
            break


def fit(seed: int = 0, split: int = 0, number: int = 0, **conf: Any) -> Fit:
    """A fit of the generated tasks' size."""
    space = {name: values[0] for name, values in SMALL.items()} | conf
    metadata = {
        "evaluation_params": {"task_specific_param_grid": {k: [v] for k, v in space.items()}}
    }
    return Fit(seed, split, number, draw("paper", metadata, seed)[0])


def test_probes_learn_the_same_in_any_company(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone or in a stack that others leave earlier and later, each with dropout of its own."""
    task = ProbeData(write_embeddings(tmp_path / "task", folds=3))
    fits = [
        fit(seed, split, dropout=0.1 + 0.2 * (seed % 2)) for split in (0, 1) for seed in range(4)
    ]
    outcomes = []
    for budget in (0, 1 << 40):
        monkeypatch.setitem(train.BUDGET, "cpu", budget)
        trainer = Trainer(task, "float32", torch.device("cpu"))
        assert trainer.at_once(fits[0].point.shape) == 1 or budget
        outcomes.append(trainer.train(fits))
    assert len({outcome.epoch for outcome in outcomes[0]}) > 3
    for alone, among, asked in zip(*outcomes, fits, strict=True):
        assert alone.fit is asked and among.fit is asked
        assert (alone.epoch, alone.validation_score) == (among.epoch, among.validation_score)
        torch.testing.assert_close(alone.logits_NC, among.logits_NC, atol=1e-3, rtol=1e-3)


def test_dropout_keeps_the_mean_and_its_rate() -> None:
    factors = torch.empty(1000, 3, 101)
    Dropout(0.25, 7, torch.device("cpu")).draw(factors[:, 1])
    dropped = (factors[:, 1] == 0).double().mean().item()
    assert dropped == pytest.approx(0.25, abs=0.007)  # five standard deviations
    assert factors[:, 1].unique().tolist() == pytest.approx([0, 4 / 3])


def test_rounded_products_have_gradients() -> None:
    a, b = torch.randn(5, 40, 30, requires_grad=True), torch.randn(5, 30, 20, requires_grad=True)
    exact, rounded = a @ b, probes.product(a, b, torch.bfloat16)
    torch.testing.assert_close(rounded, exact, atol=0.15, rtol=0.02)
    for one, other in zip(
        *(torch.autograd.grad(c.sin().sum(), (a, b)) for c in (exact, rounded)), strict=True
    ):
        assert torch.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.999


def test_finished_seeds_stay_and_others_are_redone_alike(tmp_path: Path) -> None:
    embeddings = write_embeddings(tmp_path / "task", folds=3, max_epochs=[6])
    folders = {seed: tmp_path / f"seed{seed}" for seed in range(3)}
    fast.train_and_test(embeddings, folders, "paper", tmp_path / "log", "float32")
    before = {seed: (folder / SCORES).read_bytes() for seed, folder in folders.items()}
    times = {seed: (folder / DONE).stat().st_mtime_ns for seed, folder in folders.items()}
    (folders[1] / DONE).unlink()  # as if killed before its end
    (folders[1] / "half-finished").touch()
    fast.train_and_test(embeddings, folders, "paper", tmp_path / "log", "float32")
    assert finished(folders[1]) and not (folders[1] / "half-finished").exists()
    again = (folders[1] / SCORES).read_bytes()
    assert read_scores(before[1]) == pytest.approx(read_scores(again), abs=1e-4)
    assert read_scores(before[1]) != pytest.approx(read_scores(before[0]), abs=1e-2)
    for seed in (0, 2):
        assert (folders[seed] / DONE).stat().st_mtime_ns == times[seed]
    for name in ("task_metadata.json", "labelvocabulary.csv"):  # the report reads them
        assert not (folders[0] / name).is_symlink()


def test_seeds_with_products_of_another_type_are_redone(tmp_path: Path) -> None:
    embeddings = write_embeddings(tmp_path / "task", max_epochs=[6])
    folders = {0: tmp_path / "seed0"}
    for precision in get_args(ProductType):
        fast.train_and_test(embeddings, folders, "paper", tmp_path / "log", precision)
        assert finished(folders[0], precision)


def test_the_fastest_type_is_measured_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_has_fast_bfloat16", None)
    assert fast.fastest_precision() in ("float32", "bfloat16")


def read_scores(file: bytes) -> list[float]:
    return [test["test_loss"] for test in json.loads(file).values() if "test_loss" in test]


def test_a_killed_run_leaves_nothing_that_looks_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        os.write(1, b"killed")
        raise KeyboardInterrupt

    embeddings = write_embeddings(tmp_path / "task", max_epochs=[6])
    monkeypatch.setattr(results, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        fast.train_and_test(
            embeddings, {0: tmp_path / "seed"}, "paper", tmp_path / "log", "float32"
        )
    assert not finished(tmp_path / "seed")
    assert "killed" in (tmp_path / "log").read_text("utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding_type": "event"}, "'event' is not scene; use heareval"),
        ({"evaluation": ["segment_1s_er"]}, "segment_1s_er is not one of the scores"),
        ({"evaluation_params": {"task_specific_param_grid": {"optim": ["SGD"]}}}, "sets optim"),
    ],
)
def test_tasks_for_heareval_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    embeddings = write_embeddings(tmp_path / "task")
    file = embeddings / "task_metadata.json"
    metadata = json.loads(file.read_text("utf-8"))
    assert fast.supports(metadata)
    file.write_text(json.dumps(metadata | change), "utf-8")
    assert not fast.supports(metadata | change)
    with pytest.raises(fast.ProbeError, match=message):
        fast.train_and_test(
            embeddings, {0: tmp_path / "seed"}, "paper", tmp_path / "log", "float32"
        )
    assert not (tmp_path / "seed").exists()


def test_bad_embeddings_are_named(tmp_path: Path) -> None:
    def expect(message: str, **options: Any) -> Path:
        folder = write_embeddings(tmp_path / message[:9], **options)
        damage.get(message, lambda _: None)(folder)
        with pytest.raises(fast.ProbeError, match=message):
            fast.train_and_test(
                folder, {0: tmp_path / "seed"}, "paper", tmp_path / "log", "float32"
            )
        return folder

    def replace(name: str, content: bytes) -> Callable[[Path], object]:
        return lambda folder: (folder / name).write_bytes(content)

    def labels(value: list[str]) -> bytes:
        return json.dumps({f"train-{i}.wav": value for i in range(75)}).encode()

    damage = {
        "contains NaN": replace("train.embeddings.npy", np.full((75, 16), np.nan, "f4").tobytes()),
        "valid can't be read": replace("valid.embeddings.npy", b"0123"),
        "'class 9' of": replace("train.json", labels(["class 9"])),
        "a multiclass task needs one": replace("train.json", labels([])),
        "75, 16\\] for 2 clips": replace(
            "train.json", b'{"train-0.wav": ["class 0"], "train-1.wav": ["class 0"]}'
        ),
        "version missing": lambda folder: (folder / "task_metadata.json").write_text(
            (folder / "task_metadata.json").read_text("utf-8").replace('"version"', '"edition"'),
            "utf-8",
        ),
    }
    for message in damage:
        expect(message)
    expect("leave a last batch of one", clips=1025)
    expect("ends before the first", max_epochs=[2])
    with pytest.raises(fast.ProbeError, match=r"task_metadata.json is missing"):
        fast.train_and_test(tmp_path, {0: tmp_path / "seed"}, "paper", tmp_path / "log", "float32")


def test_labels_are_never_unpickled(tmp_path: Path) -> None:
    """Neither by the fast engine nor, if they could run code, by heareval on our behalf."""

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    folder = write_embeddings(tmp_path / "task", max_epochs=[3])
    (folder / "train.target-labels.pkl").write_bytes(pickle.dumps([Hostile()]))
    fast.train_and_test(folder, {0: tmp_path / "fast"}, "paper", tmp_path / "log", "float32")
    assert finished(tmp_path / "fast")
    with pytest.raises(HearevalError, match=r"train.target-labels.pkl is not a list of labels"):
        official.train_and_test(folder, {0: tmp_path / "official"}, "paper", tmp_path / "log")
    assert not (tmp_path / "executed").exists()
