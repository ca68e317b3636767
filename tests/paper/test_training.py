"""The paper's tables from one command: rows are trained once, and stand beside the printed s(m)."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hear_axlstm import checkpoints
from hear_axlstm.pretrain import recipes
from hearbench.paper_tables import PaperTable
from hearbench.results import PAPER, THESE, Results
from hearbench.run.evaluate import Options
from hearbench.run.plan import Plan
from hearbench.stats import Estimate
from hearbench.systems.specs import parse_systems
from hearbench.tasks.description import TaskError
from paper import commands, tables, training
from paper.commands import ablations
from paper.rows import TABLES, PaperError
from paper.training import train
from tests.helpers.evaluation import task

TINY = {"epochs": 1.0, "batch_size": 4, "device": "cpu"}


@pytest.fixture
def small_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same recipes, but all with one block of 32 channels or so."""
    for name, config in recipes.RECIPES.items():
        model = replace(config.model, dim=48, depth=1)
        monkeypatch.setitem(recipes.RECIPES, name, replace(config, model=model))


def shorten(monkeypatch: pytest.MonkeyPatch, table: PaperTable, rows: int) -> None:
    """Leave a table its first rows."""
    short = replace(TABLES[table], rows=TABLES[table].rows[:rows])
    monkeypatch.setitem(TABLES, table, short)


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    (tmp_path / "audio").mkdir()
    for number in range(4):
        noise = np.random.default_rng(number).normal(0, 0.1, 16_000)
        soundfile.write(tmp_path / "audio" / f"{number}.wav", noise, 16_000)
    return tmp_path / "audio"


def scored(plan: Plan, scores: dict[str, float]) -> Results:
    """As if each system had this score on every task, and this s(m)."""
    column = {name: Estimate(mean, None, 1) for name, mean in scores.items()}
    cells = {(name, t.path.name): mean for name, mean in column.items() for t in plan.tasks}
    return Results(plan, (), cells, {THESE: column, PAPER: {}}, {THESE: {}, PAPER: {}}, ())


@pytest.mark.usefixtures("small_rows")
def test_rows_are_trained_once_and_tabled(audio: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runs = train("table3", audio, out, TINY, print)
    names = TABLES["table3"].rows
    trained = tables.finished("table3", runs)
    assert trained == {name: runs / name / "model.safetensors" for name in names}
    logs = [(path.parent / "log.jsonl").read_bytes() for path in trained.values()]
    assert train("table3", audio, out, TINY, print) == runs
    assert [(path.parent / "log.jsonl").read_bytes() for path in trained.values()] == logs
    systems = parse_systems(tables.systems(trained))
    assert [system.label for system in systems] == ["naive", *names]
    assert [system.checkpoint for system in systems[1:]] == [str(path) for path in trained.values()]

    trained.pop(names[3])
    results = scored(Plan(out, (), (), 1), {names[0]: 20.0, names[2]: 80.0})
    rows = tables.write_table("table3", trained, results, out).read_text("utf-8").splitlines()
    assert rows[2].startswith("| ssast_tiny | - |") and rows[2].endswith("| 20.0 | 55.6 ± 0.2 |")
    assert rows[3].startswith("| axlstm_tiny_e2_flip | 2 |") and rows[3].endswith(
        "| - | 66.9 ± 0.3 |"
    )
    assert rows[4].startswith("| axlstm_tiny_e3_flip | 3 |") and rows[4].endswith(
        "| 80.0 | 68.9 ± 0.4 |"
    )
    assert rows[5] == "| axlstm_tiny_e4_flip | - | - | - | - | 63.4 ± 0.2 |"
    assert "compare the order, not the numbers" in rows[7]
    assert "Scores by the official heareval (grid paper)" in rows[7]
    assert rows[9] == "Not trained: axlstm_tiny_e4_flip."


@pytest.mark.usefixtures("small_rows")
def test_rows_are_trained_with_several_seeds(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, "table3", 2)
    runs = train("table3", audio, tmp_path, TINY, print, trainings=2)
    trained = tables.finished("table3", runs)
    first, second = list(trained)[:2]
    assert (first, second, len(trained)) == ("ssast_tiny", "ssast_tiny-seed1", 4)
    heads = [checkpoints.read(trained[name])[2]["head.0.weight"] for name in (first, second)]
    assert not torch.equal(*heads)
    plan = Plan(tmp_path, (), (task("x-mini"),), 1, engine="fast", grid="heareval")
    results = scored(plan, {first: 20.0, second: 30.0})
    heads_, _, row, untested, _, caption = tables.markdown("table3", trained, results).splitlines()
    assert "heareval's probes (engine fast, grid heareval); 1 seed of the probes." in caption
    assert heads_.endswith("| validation loss | x-mini | s(m) | printed s(m) |")
    assert row.endswith("| -, - | 20.0, 30.0 | 20.0, 30.0 (25.0) | 55.6 ± 0.2 |")  # too few clips
    assert untested.endswith("| -, - | -, - | -, - | 66.9 ± 0.3 |")
    with pytest.raises(PaperError, match="trainings=0"):
        train("table3", audio, tmp_path, TINY, print, trainings=0)


def test_no_finished_row_says_how_to_train_one(tmp_path: Path) -> None:
    with pytest.raises(PaperError, match="axlstm pretrain DATA --recipe ssast_tiny_8x16"):
        tables.finished("table4", tmp_path)


def test_settings_are_checked_before_anything_long(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "train", None)
    with pytest.raises(TaskError, match="nowhere is not a directory"):
        ablations(Options(tasks_dir=tmp_path / "nowhere", engine="fast"), audio, out=tmp_path)
    with pytest.raises(TaskError, match="unknown task 'esc'"):
        ablations(Options(tasks=("esc",), engine="fast"), audio, out=tmp_path)
    monkeypatch.setattr(training, "pack", None)
    with pytest.raises(PaperError, match="epochs=-1"):
        train("table3", audio, tmp_path / "out", {"epochs": -1.0}, print)


@pytest.mark.usefixtures("small_rows")
def test_all_rows_are_trained_on_the_same_pack(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        shorten(patch, "table3", 1)
        train("table3", audio, out, TINY, print)
    shutil.copy(audio / "0.wav", audio / "new.wav")
    shorten(monkeypatch, "table3", 2)
    runs = train("table3", audio, out, TINY, print)
    facts = [checkpoints.read(path)[1] for path in tables.finished("table3", runs).values()]
    assert [fact["clips"] for fact in facts] == [4, 4]


@pytest.mark.usefixtures("small_rows")
def test_rows_of_other_settings_are_not_mixed_in(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, "table4", 1)
    out = tmp_path / "out"
    train("table4", audio, out, TINY, print)
    with pytest.raises(PaperError, match=r"other settings \(epochs\)"):
        train("table4", audio, out, {**TINY, "epochs": 2.0}, print)
