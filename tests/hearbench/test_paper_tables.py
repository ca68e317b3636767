"""The printed tables as data: complete, consistent, and for official tasks only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hear_axlstm.pretrain.recipes import RECIPES
from hearbench import paper_tables
from hearbench.cli.score import score
from hearbench.paper_tables import PaperTable
from hearbench.stats import PAPER_RANGES, AggregateError, paper_score
from hearbench.tasks.official import OFFICIAL
from tests.helpers.evaluation import FOLDERS, task, write_evaluation


def test_table_2_has_twenty_systems_on_ten_tasks() -> None:
    rows = paper_tables.rows("table2")
    assert len({row.model for row in rows}) == 20
    columns = [task.short for task in OFFICIAL.values()]
    assert columns == list(PAPER_RANGES)
    assert all(list(row.scores) == columns for row in rows)
    base = next(row for row in rows if row.model == "AxLSTM-B")
    assert (base.parameters, str(base.scores["F50K"]), str(base.aggregate)) == (
        65.6,
        "51.0 ± 0.1",
        "86.6 ± 0.2",
    )


@pytest.mark.parametrize("row", paper_tables.rows("table2"), ids=lambda row: row.model)
def test_paper_scale_gives_every_printed_aggregate(row: paper_tables.Row) -> None:
    s = paper_score({column: e.mean for column, e in row.scores.items()})
    assert s == pytest.approx(row.aggregate.mean, abs=0.05)


@pytest.mark.parametrize("table", ["table3", "table4", "table5"])
def test_rows_that_stand_in_table_2_have_its_scores_and_others_none(table: PaperTable) -> None:
    twins = {row.recipe: row for row in paper_tables.rows("table2") if row.recipe}
    found = [row for row in paper_tables.rows(table) if row.scores]
    assert [row.recipe for row in found] == [
        row.recipe for row in paper_tables.rows(table) if row.recipe in twins
    ]
    for row in found:
        assert (row.scores, row.aggregate) == (
            twins[row.recipe].scores,
            twins[row.recipe].aggregate,
        )
    assert {row.recipe for row in paper_tables.rows(table)} <= set(RECIPES)


def test_a_missing_column_refuses_the_aggregate() -> None:
    scores = {column: 50.0 for column in PAPER_RANGES if column != "VL"}
    with pytest.raises(AggregateError, match="no score on VL"):
        paper_score(scores)


@pytest.mark.parametrize("folder", FOLDERS)
def test_official_tasks_are_known(folder: str) -> None:
    column = paper_tables.column(task(folder))
    assert column is not None and column.folder == folder


@pytest.mark.parametrize(
    "likeness",
    [
        task("mridangam_stroke-v1.5-partial"),
        task("esc50-v2.0.0-small"),
        task("esc50-v1.0.0-full"),
        task("speech_commands-12words"),
        task("esc50-v2.0.0-full", clips=1900),
        task("esc50-v2.0.0-full", mode="small"),
        task("esc50-v2.0.0-full", name="esc"),
        task("pitch-mini"),
    ],
    ids=lambda t: f"{t.path.name} {t.name} {t.mode} {t.clips}",
)
def test_parts_and_likenesses_are_not_official(likeness: object) -> None:
    assert paper_tables.column(likeness) is None  # type: ignore[arg-type]


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    score(scale="paper", printed="table2", json=True)
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 20
    assert all(abs(row["s"] - row["printed"]) <= 0.05 for row in found)
    score(printed="table4", json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [row.get("refused") for row in rows[1:3]] == [
        "the paper prints no task scores for this row",
        None,
    ]
    with pytest.raises(AggregateError, match="use --scale paper"):
        score(scale="these", printed="table2")


def test_an_evaluation_s_missing_tasks_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_evaluation(tmp_path, (task(FOLDERS[0]),), {"low": 20.0, "high": 80.0})
    score(tmp_path, json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [row["s"] is None for row in rows] == [False, False, True, True]
    assert rows[0]["seeds"] == 3 and rows[0]["half_width"] > 0
    assert "missing: Mri-S, Mri-T, NS-5h, CD, LC, SC-5h, VL, E50, F50K" in rows[2]["refused"]
    with pytest.raises(AggregateError, match="ten official tasks in full"):
        score(tmp_path, scale="paper")
