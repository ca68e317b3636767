"""Results and their table: headings, what is best, and scores that are no numbers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from hearbench.cli.score import score
from hearbench.paper_tables import column
from hearbench.probes import runs
from hearbench.report.exports import summary
from hearbench.report.score_tables import _head
from hearbench.results import collect
from hearbench.tasks.folders import Task
from hearbench.tasks.official import OFFICIAL
from tests.helpers.evaluation import task, write_evaluation


@pytest.mark.parametrize(
    ("folder", "name", "mode", "head"),
    [
        ("esc50-v2.0.0-full", "esc50", "full", "E50"),
        ("nsynth_pitch-v2.2.3-5h", "nsynth_pitch", "5h", "NS-5h"),
        ("mridangam_tonic-v1.5-partial", "mridangam_tonic", "partial", None),
        ("speech_commands-v0.0.2-full", "speech_commands", "full", None),
        ("pitch-mini", "pitch-mini", "full", None),
    ],
)
def test_only_the_paper_s_own_tasks_get_its_short_names(
    folder: str, name: str, mode: str, head: str | None
) -> None:
    metric = OFFICIAL[folder].metric if folder in OFFICIAL else "top1_acc"
    named = Task(Path(folder), name, mode, metric, 1, 9_999, 2, ("train",))
    assert _head(named).text == (head or folder)


def test_another_metric_is_not_the_paper_s() -> None:
    esc50 = task("esc50-v2.0.0-full")
    assert column(esc50) is not None
    assert column(replace(esc50, metric="d_prime")) is None


@pytest.mark.parametrize("score_", [float("inf"), float("nan")])
def test_scores_that_are_no_numbers_cost_one_cell(
    tmp_path: Path, score_: float, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = (task("esc50-v2.0.0-full"), task("tones-v1-full"))
    plan = write_evaluation(tmp_path, tasks, {"a": 30.0, "b": 60.0})
    folder = plan.predictions(plan.systems[1], tasks[1], 1)
    (folder / runs.SCORES).write_text(json.dumps({"test": {"test_score": score_}}), "utf-8")
    results = collect(plan)
    assert set(results.cells) == {("a", t.path.name) for t in tasks} | {("b", "esc50-v2.0.0-full")}
    assert f"b on tones-v1-full has no mean: seed 1 scored {score_}." in results.notes
    assert "No s(m) for b: no score on tones-v1-full." in results.notes
    assert score(tmp_path) == 0 and "| b |" in capsys.readouterr().out


def test_a_fold_without_a_score_is_not_left_out_of_the_mean(tmp_path: Path) -> None:
    folds = task("tones-v1-full", folds=3)
    plan = write_evaluation(tmp_path, (folds,), {"a": 30.0, "b": 60.0})
    scores: dict = {f"fold0{i}": {"test_score": s} for i, s in enumerate((0.5, math.nan, 0.9))}
    scores["aggregated_scores"] = {"test_score_mean": 0.7}  # as pandas and so heareval compute it
    (plan.predictions(plan.systems[1], folds, 1) / runs.SCORES).write_text(
        json.dumps(scores), "utf-8"
    )
    results = collect(plan)
    assert set(results.cells) == {("a", "tones-v1-full")}
    assert "b on tones-v1-full has no mean: seed 1 scored nan." in results.notes


def test_the_lowest_error_is_best(tmp_path: Path) -> None:
    errors = task("events-v1-full", metric="segment_1s_er")
    table = summary(collect(write_evaluation(tmp_path, (errors,), {"a": 30.0, "b": 60.0})))
    cells = {line.split("|")[1].strip(): line.split("|")[3] for line in table.splitlines()[2:4]}
    assert "**" in cells["a"] and "**" not in cells["b"]
