"""Table 2 again: which checkpoints are found, and what stands beside the printed scores."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from hearbench.probes.grid import Grid
from hearbench.results import PAPER, THESE, Results
from hearbench.run.evaluate import Options
from hearbench.run.plan import Engine, EvaluatedSystem, Plan
from hearbench.stats import Estimate
from hearbench.systems.fingerprint import Fingerprint
from hearbench.systems.specs import parse_systems
from hearbench.tasks.description import TaskError
from paper.commands import rerun
from paper.rerun import markdown, specs
from paper.rows import PaperError
from tests.helpers import system_checkpoints as write
from tests.helpers.evaluation import task


def test_checkpoints_are_found_by_their_official_names(tmp_path: Path) -> None:
    for name, writer in write.WRITERS.items():
        (tmp_path / name).mkdir()
        writer(tmp_path / name)
    (tmp_path / "axlstm" / "axlstm_tiny_200_16x4_4x256_fp16_r1").mkdir(parents=True)
    (tmp_path / "hubert-large-ll60k").mkdir()
    (tmp_path / "hubert-large-ll60k" / "config.json").write_text("{}", "utf-8")
    found = specs(str(tmp_path))
    assert set(found) == {
        *("HEAR-Naive", "PaSST-Base", "HuBERT-large", "BEATs-iter3", "AudioMAE"),
        *("MWMAE-Base", "SSAM-Base", "SSAST", "AxLSTM-T"),
    }
    systems = {system.label: system for system in parse_systems(tuple(found.values()))}
    assert set(systems) == set(found)
    assert systems["BEATs-iter3"].module == "hearbench.systems.beats"
    assert Path(systems["SSAM-Base"].checkpoint).is_dir()
    assert systems["AxLSTM-T"].module == "hear_axlstm"
    (tmp_path / "empty").mkdir()
    with pytest.raises(PaperError, match="contains no checkpoint under its official name"):
        specs(str(tmp_path / "empty"))
    with pytest.raises(PaperError, match="is not a directory"):
        specs(str(tmp_path / "absent"))


def test_without_a_connection_each_server_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def refuse(_: object, request: requests.PreparedRequest, **__: object) -> None:
        asked.append(urlsplit(str(request.url)).hostname)
        raise requests.exceptions.SSLError("expired")

    def missing(*_: object) -> None:
        asked.append("hub")
        raise ConnectionError("the hub can't be reached")

    monkeypatch.setattr("requests.adapters.HTTPAdapter.send", refuse)
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("hear_axlstm.checkpoints.authors.drive.RETRIES", 0)
    monkeypatch.setattr("hearbench.weights.fetch.ATTEMPTS", 1)
    monkeypatch.setattr("hear_axlstm.checkpoints.hub.download", missing)
    monkeypatch.setenv("HEAR_AXLSTM_CACHE", str(tmp_path))
    monkeypatch.setenv("HEARBENCH_CACHE", str(tmp_path))
    with pytest.raises(PaperError, match="nothing could be downloaded"):
        specs("published")
    hosts = Counter(asked)
    assert hosts.pop("drive.google.com") == 2  # once for each package
    assert len(hosts) == 4 and set(hosts.values()) == {1}
    assert "left out AxLSTM-T, AxLSTM-S, AxLSTM-B, SSAST-T, SSAST-S, SSAST-B: can't" in caplog.text
    assert "left out MWMAE-Tiny, MWMAE-Base, SSAM-Tiny, SSAM-Small, SSAM-Base: skip" in caplog.text
    assert "left out W2V2-large, WavLM-large, HuBERT-large: the hub can't" in caplog.text
    write.beats(tmp_path)
    assert set(specs("published")) == {"HEAR-Naive", "BEATs-iter3"}


def test_tasks_are_checked_before_a_download(tmp_path: Path) -> None:
    with pytest.raises(PaperError, match="TASKS_DIR"):
        rerun(Options(), weights="published", out=tmp_path)
    with pytest.raises(TaskError, match="nowhere is not a directory"):
        rerun(Options(tasks_dir=tmp_path / "nowhere"), weights="published", out=tmp_path)


@pytest.mark.parametrize(
    ("engine", "grid", "trained"),
    [
        ("fast", "paper", "hearbench's training of heareval's probes (engine fast, grid paper)"),
        ("heareval", "heareval", "the official heareval (grid heareval)"),
    ],
)
def test_scores_stand_in_one_table_with_the_printed_ones(
    tmp_path: Path, engine: Engine, grid: Grid, trained: str
) -> None:
    tasks = (task("esc50-v2.0.0-full"), task("esc50-part"))
    labels = ("BEATs-iter3=beats@x.pt", "spectrum")
    evaluated = tuple(
        EvaluatedSystem(s, Fingerprint("feed", 16_000, 0, "")) for s in parse_systems(labels)
    )
    plan = Plan(tmp_path, evaluated, tasks, 10, engine=engine, grid=grid)
    ours = {"BEATs-iter3": Estimate(84.7, 0.3, 10), "spectrum": Estimate(30.0, None, 1)}
    cells = {(name, t.path.name): score for name, score in ours.items() for t in tasks}
    results = Results(plan, (), cells, {THESE: ours, PAPER: {}}, {THESE: {}, PAPER: {}}, ())
    text = markdown(results, {"BEATs-iter3": ""})
    lines = text.splitlines()
    assert lines[0] == "| Model | #M Params | E50 |"
    assert "| BEATs-iter3 (printed) | 90.0 | 83.7 ± 0.3 |" in lines
    assert "| BEATs-iter3 | - | 84.7 ± 0.3 |" in lines and "| spectrum | - | 30.0 |" in lines
    # half widths of 0.3 over ten seeds are standard errors of 0.1326
    differences = lines[lines.index("| Model | E50 |") :]
    assert differences[2:4] == ["| BEATs-iter3 | +5.3 |", ""]
    assert "| BEATs-iter3 | - | **84.7 ± 0.3** | **84.7 ± 0.3** | **84.7 ± 0.3** |" in lines
    assert f"Measured: this evaluation, by {trained}; 1 to 10 seeds." in text
    assert "Rows without a checkpoint: HEAR-Naive, PaSST-Base" in text
