"""The paper's tables from one command: rows are trained once, and stand beside the printed s(m)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from eval import ablations
from eval.ablations import AblationError
from eval.plan import Plan
from eval.scores import Estimate
from eval.systems import parse_systems
from eval.table import Results
from hear_axlstm.pretrain import recipes

TINY = {"epochs": 1.0, "batch_size": 4, "device": "cpu"}


@pytest.fixture
def small_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same recipes, but all with one block of 32 channels or so."""
    for name, config in recipes.RECIPES.items():
        model = replace(config.model, dim=48, depth=1)
        monkeypatch.setitem(recipes.RECIPES, name, replace(config, model=model))


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    (tmp_path / "audio").mkdir()
    for number in range(4):
        noise = np.random.default_rng(number).normal(0, 0.1, 16_000)
        soundfile.write(tmp_path / "audio" / f"{number}.wav", noise, 16_000)
    return tmp_path / "audio"


def scored(plan: Plan, scores: dict[str, float]) -> Results:
    column = {name: Estimate(mean, None, 1) for name, mean in scores.items()}
    return Results(plan, (), {}, {"these systems": column, "the paper's Table 2": {}}, ())


@pytest.mark.usefixtures("small_rows")
def test_rows_are_trained_once_and_tabled(audio: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    trained = ablations.train("expansion", audio, out, TINY)
    names = [row.recipe for row in recipes.TABLES["expansion"].rows]
    assert trained == [out / "runs" / name / "model.safetensors" for name in names]
    logs = [(path.parent / "log.jsonl").read_bytes() for path in trained]
    assert ablations.train("expansion", audio, out, TINY) == trained
    assert [(path.parent / "log.jsonl").read_bytes() for path in trained] == logs
    systems = parse_systems(ablations.systems("expansion", trained))
    assert [system.label for system in systems] == ["naive", *names]
    assert [system.model for system in systems[1:]] == [str(path) for path in trained]

    results = scored(Plan(out, (), (), 1), {names[0]: 20.0, names[2]: 80.0})
    rows = ablations.write("expansion", trained, results, out).splitlines()
    assert rows == (out / "expansion.md").read_text().splitlines()
    assert rows[2].startswith("| ssast_tiny | - |") and rows[2].endswith("| 20.0 | 55.6 ± 0.2 |")
    assert rows[3].startswith("| axlstm_tiny_e2_flip | 2 |") and rows[3].endswith(
        "| - | 66.9 ± 0.3 |"
    )
    assert rows[4].startswith("| axlstm_tiny_e3_flip | 3 |") and rows[4].endswith(
        "| 80.0 | 68.9 ± 0.4 |"
    )
    assert "compare the order, not the numbers" in rows[-1]


@pytest.mark.usefixtures("small_rows")
def test_rows_of_other_settings_are_not_mixed_in(audio: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ablations.train("patch", audio, out, TINY)
    with pytest.raises(AblationError, match=r"other settings \(epochs\)"):
        ablations.train("patch", audio, out, {**TINY, "epochs": 2.0})
