"""Result files of one seed, as written by heareval's prediction step."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hearbench.files import write_text
from hearbench.probes.fast.data import ProbeData
from hearbench.probes.fast.probes import losses
from hearbench.probes.fast.scores import score
from hearbench.probes.fast.train import Outcome
from hearbench.probes.runs import DONE, SCORES


def write(data: ProbeData, folder: Path, outcomes: Sequence[Outcome], done: dict[str, Any]) -> None:
    """Write the results of one seed; the file that marks the folder as finished comes last.

    Args:
        data: the task's data.
        folder: empty folder of the seed.
        outcomes: one per fold, in the order of `data.folds`.
        done: further entries of prediction-done.json.
    """
    results: dict[str, Any] = {}
    for fold, outcome in zip(data.folds, outcomes, strict=True):
        stored, results[fold.test] = _tested(data, fold.test, outcome)
        (folder / f"{fold.test}.predictions.pkl").write_bytes(pickle.dumps(stored))
    if len(results) > 1:
        results["aggregated_scores"] = _aggregated(results)
    conf = outcomes[0].fit.point.conf
    results |= {
        "hparams": {name: _plain(value) for name, value in conf.items()},
        "postprocessing": [],
        "score_mode": "max" if data.metadata.get("use_scoring_for_early_stopping", True) else "min",
        "embedding_path": str(folder.resolve()),
    }
    write_text(folder / SCORES, json.dumps(results, indent=4))
    about = {"embedding_path": str(folder.resolve()), "embedding_size": data.features}
    done = {**done, **about, "engine": "fast"}
    write_text(folder / DONE, json.dumps(done, indent=4))


def _tested(data: ProbeData, part: str, outcome: Outcome) -> tuple[dict[str, Any], dict[str, Any]]:
    """Stored test predictions of one fold, and their scores under heareval's names."""
    logits, (_, target) = outcome.logits_NC, data.rows(part)
    predictions = data.predictions(logits)
    names = data.metadata["evaluation"]
    scores = {name: score(name, predictions, target) for name in names}
    return (
        {"target": target, "prediction": predictions, "prediction_logit": logits},
        {
            "test_loss": losses(logits[None], target, data.multilabel).item(),
            "test_score": scores[names[0]],
            **{f"test_{name}": value for name, value in scores.items()},
            "validation_score": outcome.validation_score,
            "epoch": outcome.epoch,
            "time_in_min": outcome.seconds / 60,
        },
    )


def _aggregated(results: dict[str, Any]) -> dict[str, float]:
    """Mean and standard deviation over folds."""
    table = pd.DataFrame.from_dict(results, orient="index")
    aggregated = {}
    for name in table:
        aggregated[f"{name}_mean"] = float(table[name].mean())
        aggregated[f"{name}_std"] = float(table[name].std())
    return aggregated


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | float | int) else str(value)
