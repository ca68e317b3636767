"""The whole way through the official heareval on a tiny task, with restarts and failures."""

from __future__ import annotations

import csv
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from sklearn.metrics import accuracy_score

from tests.helpers.hear_task import write_task
from tests.helpers.platforms import posix_only

pytest.importorskip("heareval", reason="heareval is not installed: make setup")

from hearbench import cli, report
from hearbench.probes.runs import DONE, SCORES
from hearbench.probes.runs import finished as is_finished
from hearbench.results import collect, write
from hearbench.run.evaluate import Options
from hearbench.run.plan import EvaluatedSystem, Plan, PlanError
from hearbench.run.sweep import sweep
from hearbench.systems.fingerprint import fingerprints
from hearbench.systems.specs import System, parse_system
from hearbench.tasks.audio import with_audio
from hearbench.tasks.folders import find_tasks

BROKEN = """
from hearbench.systems.naive import *
def get_scene_embeddings(audio, model):
    raise RuntimeError("out of ideas")
"""
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A plan of two systems, two tasks and two seeds, swept; the second system always fails."""
    folder = tmp_path_factory.mktemp("eval")
    write_task(folder / "tasks" / "split")
    write_task(folder / "tasks" / "folded", folds=3)
    (folder / "broken_hear_module.py").write_text(BROKEN, "utf-8")
    sys.path.insert(0, str(folder))
    systems = (parse_system("naive"), System("broken", "broken_hear_module"))
    evaluated = tuple(map(EvaluatedSystem, systems, fingerprints(systems)))
    tasks = tuple(with_audio(task, [16_000]) for task in find_tasks(folder / "tasks"))
    plan = Plan(folder / "out", evaluated, tasks, seeds=2)
    plan.save()
    failures = sweep(plan, workers=2)
    sys.path.remove(str(folder))
    assert {failure.name for failure in failures} == {
        "broken on folded, embeddings",
        "broken on split, embeddings",
    }
    assert all("out of ideas" in failure.error for failure in failures)
    assert all("out of ideas" in failure.log.read_text("utf-8") for failure in failures)
    return plan


def test_scores_are_heareval_s(finished: Plan) -> None:
    """Each score equals the accuracy that sklearn finds in heareval's stored predictions."""
    runs = {(run.task, run.seed): run for run in finished.runs()}
    assert set(runs) == {("folded", 0), ("folded", 1), ("split", 0), ("split", 1)}
    for (name, seed), run in runs.items():
        task = next(task for task in finished.tasks if task.path.name == name)
        folder = finished.predictions(finished.systems[0], task, seed)
        accuracies = []
        for file in folder.glob("*.predictions.pkl"):
            stored = pickle.loads(file.read_bytes())
            accuracies.append(
                accuracy_score(stored["target"].argmax(1), stored["prediction"].argmax(1))
            )
        assert len(accuracies) == task.folds
        assert run.score == pytest.approx(sum(accuracies) / len(accuracies))


def test_the_paper_s_grid_is_searched(finished: Plan) -> None:
    for task in finished.tasks:
        folder = finished.predictions(finished.systems[0], task, 1)
        chosen = json.loads((folder / SCORES).read_text("utf-8"))["hparams"]
        assert (chosen["hidden_layers"], chosen["hidden_dim"], chosen["lr"]) == (1, 1024, 1e-4)
        assert "xavier_normal_" in chosen["initialization"]
        log = (folder / "prediction.log").read_text("utf-8")
        points = [line for line in log.splitlines() if "Grid point" in line]
        assert len(points) == 2 and "'dropout': 0.1," in log and "'dropout': 0.25," in log
        assert log.count("Computing predictions") == 1  # no other seed writes to this log
        assert not list(folder.glob("lightning_logs/*/checkpoints"))


def logits(plan: Plan, seed: int) -> torch.Tensor:
    folder = plan.predictions(plan.systems[0], plan.tasks[-1], seed)
    return pickle.loads((folder / "test.predictions.pkl").read_bytes())["prediction_logit"]


def test_seeds_differ_and_a_half_finished_one_is_redone_alike(finished: Plan) -> None:
    before = logits(finished, 0)
    assert not torch.equal(before, logits(finished, 1))
    again = Plan(finished.out, finished.systems[:1], finished.tasks[-1:], seeds=1)
    folder = again.predictions(again.systems[0], again.tasks[0], 0)
    (folder / DONE).unlink()  # as if it had been killed before its end
    (folder / "half-finished").touch()
    assert not is_finished(folder)
    assert sweep(again, workers=2) == []  # in the same workers
    assert is_finished(folder) and not (folder / "half-finished").exists()
    assert torch.equal(logits(again, 0), before)


def test_finished_runs_are_not_repeated(finished: Plan) -> None:
    files = list(finished.out.glob(f"predictions/**/{DONE}"))
    times = [file.stat().st_mtime_ns for file in files]
    assert len(files) == 4
    assert sweep(Plan(finished.out, finished.systems[:1], finished.tasks, 2), workers=1) == []
    assert [file.stat().st_mtime_ns for file in files] == times


def test_table_and_records(finished: Plan) -> None:
    assert Plan.load(finished.out) == finished
    results = collect(finished)
    write(results)
    text = report.write_table(results)
    assert text == (finished.out / "table.md").read_text("utf-8")
    assert "| broken | - | - | - | - |" in text
    assert "No s(m) for naive: s(m) compares systems, and there is only one." in text
    assert "broken on split: 0 of 2 seeds are finished." in text
    record = json.loads((finished.out / "results.json").read_text("utf-8"))
    assert len(record["runs"]) == 4 and record["versions"]["heareval"] == "2021.1.3"
    with (finished.out / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    percents = [f"{run['percent']:.6f}" for run in record["runs"]]
    assert [row["percent"] for row in rows] == percents and "score" not in rows[0]


def test_bad_plans(finished: Plan, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="--seeds 0: use 1 or more"):
        Options(seeds=0)
    with pytest.raises(PlanError, match="evaluate first"):
        Plan.load(tmp_path)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "hearbench", *map(str, arguments)]


def test_command_line_errors_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for arguments, message in (
        (("tasks", tmp_path / "absent"), "is not a directory"),
        (("score", tmp_path), "evaluate first"),
        (("run", "--systems", "a b", "--out", tmp_path), "[LABEL=]MODULE"),
    ):
        monkeypatch.setattr(sys, "argv", ["hearbench", *map(str, arguments)])
        assert cli.main() == 2
        errors = capsys.readouterr().err
        assert message in errors and errors.startswith("error: ") and "Traceback" not in errors


@posix_only
@pytest.mark.slow
def test_interrupt_and_go_on(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a probe leaves finished runs only; the same command finishes."""
    long = {"task_specific_param_grid": {"max_epochs": [60], "patience": [200]}}
    write_task(tmp_path / "tasks" / "tones", evaluation_params=long)
    run = command(
        *("run", "--tasks-dir", tmp_path / "tasks", "--systems", "naive"),
        *("--seeds", 2, "--jobs", 1, "--out", tmp_path / "out"),
    )
    process = subprocess.Popen(
        run, cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob(f"out/predictions/**/{DONE}")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and b"to resume" in output
    assert len(list(tmp_path.glob(f"out/predictions/**/{DONE}"))) == 1
    assert subprocess.run(run, cwd=ROOT, capture_output=True).returncode == 0
    assert len(list(tmp_path.glob(f"out/predictions/**/{DONE}"))) == 2
