"""The report as one HTML page: no scripts, no requests, light and dark, for screens and paper."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from math import inf
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hearbench.report import pictures
from hearbench.report.confusion import Mistakes
from hearbench.report.content import Content
from hearbench.report.paired_differences import certain
from hearbench.report.pictures import Mark
from hearbench.report.score_tables import Head, ScoreTable, spread, whiskers
from hearbench.results import THESE, Results
from hearbench.stats import by_seed

WORST = 8  # classes listed for each system and task
FEWEST_DOTS = 3  # of a scatter plot
UNBROKEN = 14  # characters; shorter names are not broken


def html(content: Content) -> str:
    """The whole page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(pieces=_pieces, runs=_runs, certain=certain)
    return environment.get_template("report.html").render(_values(content))


def _values(content: Content) -> dict[str, Any]:
    results, plan = content.results, content.results.plan
    systems = [system.label for system in plan.systems]
    placed = results.aggregates[THESE]
    return {
        "title": content.title,
        "lead": content.lead,
        "notes": results.notes,
        "measured": content.measured,
        "printed": content.printed,
        "no_aggregate": next(iter(results.refused[THESE].values()), ""),
        "references": [
            {"name": name, "pairs": [c for c in content.comparisons if c.reference == name]}
            for name in systems
            if len(systems) > 1
        ],
        "first_reference": max(systems, key=lambda s: placed[s].mean if s in placed else -inf),
        "mistakes": [
            (task, [_entry(found) for found in group])
            for task, group in groupby(content.mistakes, key=lambda found: found.task)
        ],
        "pictures": _pictures(content),
        "spread": spread(content.differences),
        "whiskers": whiskers(content.measured.scores),
        "provenance": content.provenance,
    }


def _pictures(content: Content) -> dict[str, Any]:
    ours = _marks(content.measured)
    table = content.printed
    theirs = _marks(table) if table and table.heads[-1].text == "s(m)" else []
    return {
        "bars": ours and Markup(pictures.bars(ours, "s(m) of these systems")),
        "scatter": _scatter(ours, "s(m) of these systems"),
        "paper_bars": theirs and Markup(pictures.bars(theirs, "s(m), the paper's scale")),
        "paper_scatter": _scatter(theirs, "s(m), the paper's scale"),
        "dots": list(_dots(content.results, content.measured)),
    }


def _scatter(marks: Sequence[Mark], title: str) -> Markup | None:
    """s(m) against parameters, if there are enough dots for a picture."""
    enough = sum(bool(mark.parameters) for mark in marks) >= FEWEST_DOTS
    return Markup(pictures.scatter(marks, title)) if enough else None


def _marks(table: ScoreTable) -> list[Mark]:
    """The last column: s(m)."""
    return [
        Mark(row.name, value, row.measured, row.parameters)
        for row in table.rows
        if (value := row.cells[-1]) is not None
    ]


def _dots(results: Results, table: ScoreTable) -> Iterator[tuple[Head, Markup]]:
    for index, task in enumerate(results.plan.tasks):
        marks = []
        for row in table.rows:
            seeds = by_seed(results.runs, row.name).values()
            values = [scores[name] for scores in seeds if (name := task.path.name) in scores]
            if (value := row.cells[index]) is not None:
                marks.append(Mark(row.name, value, True, seeds=tuple(values)))
        if marks:
            title = f"Scores of every seed on {task.path.name}"
            yield table.heads[index], Markup(pictures.dots(marks, title))


def _entry(found: Mistakes) -> dict[str, Any]:
    picture = None if found.confusion is None else Markup(pictures.confusion(found))
    return {"system": found.system, "picture": picture, "worst": found.classes[:WORST]}


def _pieces(text: str) -> list[str]:
    """Pieces between which a long name may break: after - _ / and =."""
    if len(text) <= UNBROKEN:
        return [text]
    return re.findall(r"[^-_/=]*[-_/=]+|[^-_/=]+", text)


def _runs(items: Sequence[Any], attribute: str) -> list[tuple[Any, list[Any]]]:
    """Group adjacent items with the same attribute."""
    return [(key, list(group)) for key, group in groupby(items, lambda i: getattr(i, attribute))]
