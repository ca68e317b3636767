"""The report: its numbers against scipy and sklearn, its page self-contained and well formed."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file
from scipy import stats
from sklearn.metrics import average_precision_score, confusion_matrix

from hearbench import report
from hearbench.probes.grid import Grid
from hearbench.report import pictures
from hearbench.report.confusion import Mistakes, _read, mistakes
from hearbench.report.content import Content, gather
from hearbench.report.exports import summary
from hearbench.report.paired_differences import certain
from hearbench.report.pictures import Mark
from hearbench.report.provenance import command, provenance
from hearbench.report.score_tables import (
    compared_with_printed,
    measured,
    seeds,
    spread,
    whiskers,
)
from hearbench.results import collect
from hearbench.run.plan import Engine, Plan
from hearbench.stats import Estimate, by_seed
from hearbench.systems.specs import System, parse_system
from tests.helpers.evaluation import FOLDERS, MULTILABEL, task, write_evaluation

ESC, PARTIAL = "esc50-v2.0.0-full", "mridangam_stroke-v1.5-partial"
TASKS = (task(ESC, classes=30, folds=5), task(PARTIAL), task(MULTILABEL), task("x-mini"))
SKILLS = {"low": 30.0, "middle": 60.0, "high": 80.0}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return write_evaluation(tmp_path_factory.mktemp("out"), TASKS, SKILLS)


@pytest.fixture(scope="module")
def content(plan: Plan) -> Content:
    return gather(collect(plan))


@pytest.fixture(scope="module")
def folder(plan: Plan) -> Path:
    return report.write(collect(plan)).parent


def stored(plan: Plan, system: int, task: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for seed in range(plan.seeds):
        place = plan.predictions(plan.systems[system], plan.tasks[task], seed)
        for file in place.glob("*.predictions.pkl"):
            predictions = pickle.loads(file.read_bytes())
            yield predictions["target"].numpy(), predictions["prediction"].numpy()


def test_printed_scores_stand_beside_official_tasks_only(content: Content) -> None:
    texts = [head.text for head in content.measured.heads]
    assert texts == ["E50", PARTIAL, "F50K", "x-mini", "s(m)"]
    assert [head.area for head in content.measured.heads] == [
        "Audio",
        "Official task in part",
        "Audio",
        "Generated",
        "All tasks",
    ]
    assert content.printed is not None
    assert [head.text for head in content.printed.heads] == ["E50", "F50K"]  # and no s(m)
    assert [row.measured for row in content.printed.rows] == [False] * 20 + [True] * 3
    assert "missing: BO, Mri-S, Mri-T, NS-5h, CD, LC, SC-5h, VL" in content.printed.caption


def test_all_ten_official_tasks_get_the_paper_s_scale(tmp_path: Path) -> None:
    plan = write_evaluation(tmp_path, tuple(map(task, FOLDERS)), SKILLS, seeds=2)
    table = gather(collect(plan)).printed
    assert table is not None and table.heads[-1].text == "s(m)"
    assert [row.cells[-1].mean for row in table.rows[:2]] == [5.1, 74.4]  # type: ignore[union-attr]
    assert all(row.cells[-1].half_width for row in table.rows)  # type: ignore[union-attr]
    heads, _, first = summary(collect(plan)).splitlines()[:3]
    assert heads.endswith("| s(m) | s(m), paper |")
    assert first.endswith(f"| {table.rows[-3].cells[-1]} |")


def test_captions_name_engine_and_grid_once(plan: Plan) -> None:
    def captions(
        engine: Engine, grid: Grid = "paper", only_heareval: tuple[str, ...] = ()
    ) -> tuple[str, str]:
        changed = replace(plan, engine=engine, grid=grid, only_heareval=only_heareval)
        alone, compared = measured(results := collect(changed)), compared_with_printed(results)
        assert compared is not None
        beside = compared.caption.split("Measured: this evaluation, by ")[1].split(";")[0]
        return alone.caption.removeprefix("Test scores by ").partition(":")[0], beside

    official = "the official heareval (grid paper)"
    assert captions("heareval") == (official, official)
    coarse = official.replace("paper", "heareval")
    assert captions("heareval", "heareval") == (coarse, coarse)
    ours = "hearbench's training of heareval's probes (engine fast, grid paper)"
    assert captions("fast") == (ours, ours)
    also = " by the official heareval"  # in the second table only tasks that it has
    assert captions("fast", "paper", ("x-mini",)) == (f"{ours}, on x-mini{also}", ours)
    assert captions("fast", "paper", (ESC,)) == (f"{ours}, on {ESC}{also}",) * 2


def test_best_of_each_column(content: Content) -> None:
    best = [
        {row.name for row in content.measured.rows if content.measured.is_best(row, column)}
        for column in range(len(content.measured.heads))
    ]
    assert best == [{"high"}] * 5


def test_differences_are_scipy_s_paired_t(content: Content, plan: Plan) -> None:
    scores = {name: by_seed(content.results.runs, name) for name in SKILLS}
    pair = next(c for c in content.comparisons if (c.system, c.reference) == ("high", "middle"))
    for task_, found in zip(plan.tasks, pair.differences, strict=False):
        a, b = ([scores[n][s][task_.path.name] for s in range(3)] for n in ("high", "middle"))
        low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
        assert found is not None and found.half_width is not None
        assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(
            (low, high)
        )
    assert len(content.comparisons) == 6 and pair.differences[-1] is not None


def test_certain_means_that_the_interval_excludes_zero() -> None:
    assert certain(Estimate(-2.0, 1.9, 3)) and not certain(Estimate(-2.0, 2.1, 3))
    assert not certain(Estimate(5.0, None, 1)) and not certain(None)


def test_confusion_is_sklearn_s(content: Content, plan: Plan) -> None:
    found = next(m for m in content.mistakes if (m.system, m.task) == ("middle", ESC))
    pairs = list(stored(plan, 1, 0))
    assert len(pairs) == 15
    truth, guess = (np.concatenate([p[i].argmax(1) for p in pairs]) for i in (0, 1))
    expected = confusion_matrix(truth, guess, labels=range(30), normalize="true")
    np.testing.assert_allclose(found.confusion, 100 * expected)
    worst = found.classes[0]
    assert worst.percent == pytest.approx(100 * expected.diagonal().min())
    assert worst.clips == 20  # of 600 in all folds, not times seeds
    index = found.labels.index(worst.label)
    off = expected[index].copy()
    off[index] = 0
    assert found.labels.index(worst.taken_for) == off.argmax()
    assert worst.share == pytest.approx(100 * off.max())


def test_tagging_has_average_precision_and_no_matrix(content: Content, plan: Plan) -> None:
    found = next(m for m in content.mistakes if (m.system, m.task) == ("low", MULTILABEL))
    assert found.confusion is None
    expected = np.mean(
        [average_precision_score(t, p, average=None) for t, p in stored(plan, 0, 2)], axis=0
    )
    by_label = {score.label: score.percent for score in found.classes}
    assert [by_label[label] for label in found.labels] == pytest.approx(list(100 * expected))


def test_runs_with_links_to_deleted_embeddings_have_no_mistakes(tmp_path: Path) -> None:
    plan = write_evaluation(tmp_path, TASKS[:1], {"a": 30.0})
    (plan.predictions(plan.systems[0], plan.tasks[0], 0) / "task_metadata.json").unlink()
    assert mistakes(plan, plan.systems[0], plan.tasks[0]) is None


def test_predictions_can_t_run_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("touch /tmp/never",)

    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"target": Trap()}))
    with pytest.raises(pickle.UnpicklingError, match="not part of a tensor"):
        _read(tmp_path / "x.pkl")


class Reader(HTMLParser):
    """Notes unbalanced tags, and every address that a browser would ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.requests: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "wbr", "input", "br"):
            self.open.append(tag)
        self.requests += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_self_contained_and_well_formed(folder: Path) -> None:
    page = (folder / "report.html").read_text("utf-8")
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert reader.requests and all(a.startswith(("#", "data:image/png")) for a in reader.requests)
    assert "<script" not in page and "@import" not in page
    assert set(re.findall(r"url\(.", page)) == {"url(#"}
    pictures = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(pictures) == 1 + 4 + 9  # s(m), dots of four tasks, matrices of three
    for picture in pictures:
        width, height = map(float, ElementTree.fromstring(picture).get("viewBox", "").split()[2:])
        assert width < 310 and height > 0  # text of 10 points keeps its size on a phone
    assert "class &amp; 1" in page and "class & 1" not in page
    for word in ("Compared with printed", "AxLSTM-B", PARTIAL.split("_")[0], "feedfeedfeed"):
        assert word in page


def test_every_bar_has_its_own_row_and_value(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"hear_axlstm-step-0000{n}000.milestone" for n in (1, 2, 3)] + ["naive", "naive"]
    means, measured = (10.0, 50.0, 90.0, 30.0, 70.0), (True, True, True, True, False)
    marks = [
        Mark(name, Estimate(mean, None, 1), own)
        for name, mean, own in zip(names, means, measured, strict=True)
    ]
    figures: list[Figure] = []
    draw = pictures._svg
    monkeypatch.setattr(pictures, "_svg", lambda f, title: figures.append(f) or draw(f, title))
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", pictures.bars(marks, "s(m)"))
    lengths = [bar.get_width() for bar in figures[0].axes[0].patches]
    rows = [bar.get_y() + bar.get_height() / 2 for bar in figures[0].axes[0].patches]
    assert lengths == sorted(means) and rows == pytest.approx(range(5))
    first, second, third = (f"hear_ax…{n}000.milestone" for n in (1, 2, 3))
    assert [text for text in texts if not text.isdigit()] == [
        *("10.0", "30.0", "50.0", "70.0", "90.0"),
        *(first, "naive", second, "naive (printed)", third),
    ]


def test_names_with_dollars_are_no_formulas() -> None:
    marks = [
        Mark(name, Estimate(mean, 1.0, 3), True, 4.0, (mean,))
        for name, mean in (("$a^$", 10.0), ("$b_$", 90.0), ("c", 91.0), ("d", 92.0))
    ]
    classes = Mistakes("$a^$", "x-mini", ("$low^$", "high"), np.eye(2) * 100, ())
    for picture in (
        pictures.bars(marks, "$s^$"),
        pictures.scatter(marks, "$s^$"),
        pictures.dots(marks, "$s^$"),
    ):
        assert ">$a^$</text>" in picture and ">$b_$</text>" in picture
    assert pictures.confusion(classes).count(">$low^$</text>") == 2


def test_different_names_stay_different_when_shortened() -> None:
    assert pictures.shortened(["short", "x" * 30]) == ["short", "x" * 14 + "…" + "x" * 7]
    for names in (
        ["a" * 30 + end for end in ("1" + "b" * 9, "2" + "b" * 9)],
        ["a" * 40 + middle + "b" * 40 for middle in "12"],
    ):
        assert len(set(pictures.shortened([*names, names[0]]))) == 2


def test_csv_has_the_same_numbers(folder: Path, content: Content) -> None:
    with (folder / "report.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * 5 + 23 * 2
    ours = {(r["model"], r["column"]): r for r in lines if r["table"] == "measured"}
    cell = content.results.cells["high", ESC]
    assert float(ours["high", "E50"]["mean"]) == pytest.approx(cell.mean, abs=1e-4)
    assert ours["high", "E50"]["best"] == "yes" and ours["low", "E50"]["best"] == ""
    for name in ("lowest", "highest"):
        assert float(ours["high", "E50"][name]) == pytest.approx(getattr(cell, name), abs=1e-4)
    assert {r["column"] for r in lines if r["source"] == "printed"} == {"E50", "F50K"}
    assert {r["lowest"] for r in lines if r["source"] == "printed"} == {""}


def test_markdown_and_latex(folder: Path) -> None:
    text = (folder / "report.md").read_text("utf-8")
    assert "| AxLSTM-B (printed) | 65.6 | 79.2 ± 0.6 | 51.0 ± 0.1 |" in text
    latex = (folder / "report.tex").read_text("utf-8")
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    assert r"mridangam\_stroke-v1.5-partial" in latex and r"$94.8 \pm" not in latex
    rows = [line.count(" & ") for line in latex.splitlines() if line.endswith(r" \\")]
    assert r"AxLSTM-B (printed) & 65.6 & " in latex
    assert set(rows[:4]) == {6} and set(rows[4:]) == {3}


def test_few_seeds_have_a_range_in_every_format(folder: Path, content: Content) -> None:
    assert Estimate(66.7, 44.1, 2, 63.2, 70.2).bounds == (63.2, 70.2)
    assert Estimate(66.0, 4.0, 10, 50.0, 70.2).bounds == (62.0, 70.0)
    assert Estimate(66.0, None, 1, 66.0, 66.0).bounds == (66.0, 66.0)
    texts = {s: (folder / f"report.{s}").read_text("utf-8") for s in ("html", "md", "tex")}
    for row in content.measured.rows:
        for cell in row.cells:
            assert cell is not None and cell.half_width is not None
            for text in texts.values():
                assert f"({cell.lowest:.1f} to {cell.highest:.1f})" in text
    pairs = [value for pair in content.comparisons for value in pair.differences if value]
    assert all(value.spread in texts["html"] for value in pairs)
    ours = (
        texts["md"].partition("## Compared with printed")[0]
        + texts["md"].partition("## Two systems")[2]
    )
    assert "±" not in ours and "Whiskers: range of the seeds" in texts["html"]


def test_captions_follow_the_finished_seeds() -> None:
    """The cells do, too: an unfinished evaluation of many seeds shows ranges."""
    one, two = Estimate(1.0, None, 1, 1.0, 1.0), Estimate(66.7, 44.1, 2, 63.2, 70.2)
    ten = Estimate(66.0, 4.0, 10, 50.0, 70.2)
    interval, few = "± half of the 95 % interval (Student t)", "where fewer than 5 are finished"
    for scores, text, drawn in (
        ((None,), "0 seeds of the probe.", ""),
        ((one, None), "1 seed of the probe.", ""),
        ((one, ten), f"Mean over 1 to 10 seeds of the probe {interval}.", "95 % interval over"),
        ((two,), f"Mean over 2 seeds of the probe; in brackets, the range {few}.", "range of the"),
        (
            (two, ten),
            f"Mean over 2 to 10 seeds of the probe {interval}; in brackets, the range {few}.",
            f"95 % interval over the seeds, or their range {few}",
        ),
    ):
        assert spread(scores) == text and whiskers(scores).startswith(drawn)
        assert seeds(scores) in text and bool(whiskers(scores)) == bool(drawn)


def test_nothing_finished_is_said(plan: Plan, tmp_path: Path) -> None:
    page = report.write(collect(replace(plan, out=tmp_path))).read_text("utf-8")
    assert "No system has an s(m): no run is finished." in page and "none is finished" in page


def test_pretraining_data_is_that_of_a_file_or_of_a_run(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "axlstm_tiny" / "model.safetensors"
    file.parent.mkdir()
    training = {"hours": 36.5, "clips": 17_811, "corpus": "open36h", "steps": 900}
    save_file({"x": torch.zeros(1)}, file, {"module": json.dumps({"training": training})})
    checkpoints = {
        str(file): "36.5 h, 17,811 clips, corpus open36h, 900 steps",
        str(file.parent): "36.5 h, 17,811 clips, corpus open36h, 900 steps",
        str(tmp_path): "-",
        "axlstm_tiny": "-",  # weights with a name, although there is such a folder
        "": "-",
        "axlstm_tiny.random": "not pretrained",
        "hf://org/repo": "see its model card",
    }
    systems = [
        replace(plan.systems[0], system=System(f"x{n}", "hear_axlstm", checkpoint))
        for n, checkpoint in enumerate(checkpoints)
    ]
    monkeypatch.chdir(tmp_path)
    by_name = provenance(collect(replace(plan, systems=tuple(systems))))
    monkeypatch.chdir(file.parent)  # with the file that an empty path would lead to
    found = provenance(collect(replace(plan, systems=tuple(systems))))
    assert found.systems == by_name.systems
    column = found.system_heads.index("pretrained on")
    assert [row[column] for row in found.systems] == list(checkpoints.values())


def test_the_command_repeats_the_plan(plan: Plan) -> None:
    mine = System("mine", "hear_axlstm", "runs/a b.safetensors")
    models = [
        type(plan.systems[0])(system, plan.systems[0].fingerprint)
        for system in (parse_system("random"), mine)
    ]
    words = command(Plan(Path("out"), tuple(models), plan.tasks[:1], 3))
    assert words == (
        f"hearbench run --tasks-dir tasks --tasks {ESC} --systems random "
        "'mine=hear_axlstm@runs/a b.safetensors' --seeds 3 --engine heareval "
        "--grid paper --out out"
    )
