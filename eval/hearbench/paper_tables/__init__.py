"""Scores printed in the paper, from the CSV files in this folder (see README.md)."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from hearbench.stats import Estimate
from hearbench.tasks.folders import Task
from hearbench.tasks.official import OFFICIAL, OfficialTask

PaperTable = Literal["table2", "table3", "table4", "table5"]
FOLDER = Path(__file__).parent
IN_FULL = 0.99  # share of the clips; some archives differ by a few from the stated number
SEEDS = 10  # behind every printed interval


@dataclass(frozen=True)
class Row:
    """One row of a printed table."""

    model: str
    group: str
    """Heading above it in Table 2, else empty."""
    parameters: float | None
    """Parameters in millions."""
    with_decoder: bool
    """Whether the parameters include a decoder."""
    recipe: str
    """Recipe with the same settings in `hear_axlstm.pretrain.recipes`, or empty."""
    scores: Mapping[str, Estimate]
    """Column -> score in percent; empty where the paper prints none for the row's model."""
    aggregate: Estimate
    """The printed s(m)."""


@cache
def rows(table: PaperTable) -> tuple[Row, ...]:
    """The rows of one of the paper's tables, in its order.

    Tables 3 to 5 print no task scores; a row that is also in Table 2 takes them from there.
    """
    twins = {} if table == "table2" else {row.model: row.scores for row in rows("table2")}
    with (FOLDER / f"{table}.csv").open(newline="", encoding="utf-8") as file:
        return tuple(_row(cells, twins) for cells in csv.DictReader(file))


def printed(table: PaperTable) -> dict[str, Estimate]:
    """Recipe -> printed s(m), for the rows that have a recipe."""
    return {row.recipe: row.aggregate for row in rows(table) if row.recipe}


def column(task: Task) -> OfficialTask | None:
    """The paper's column for `task`, or None if it is not one of the complete official tasks.

    It must match by its folder, by the name, mode and metric in its description, and by its number
    of clips.
    """
    official = OFFICIAL.get(task.path.name)
    if official is None or task.clips < IN_FULL * official.clips or task.metric != official.metric:
        return None
    name, mode = f"{task.name}-", f"-{task.mode}"
    in_name = official.folder.startswith(name) and official.folder.endswith(mode)
    return official if in_name else None


def _row(cells: Mapping[str, str], twins: Mapping[str, Mapping[str, Estimate]]) -> Row:
    names = [task.short for task in OFFICIAL.values() if task.short in cells]
    scores = {name: _estimate(cells, name) for name in names}
    return Row(
        cells["model"],
        cells.get("group", ""),
        float(cells["parameters"]) if cells.get("parameters") else None,
        cells.get("with_decoder") == "yes",
        cells["recipe"],
        scores or twins.get(cells["table2_model"], {}),
        _estimate(cells, "s"),
    )


def _estimate(cells: Mapping[str, str], name: str) -> Estimate:
    return Estimate(float(cells[name]), float(cells[f"{name} ±"]), SEEDS)
