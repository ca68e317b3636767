"""`hearbench score`: s(m) of the last evaluation, or of one of the paper's tables."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from hearbench import published as paper
from hearbench.published import PublishedTable
from hearbench.report.exports import summary
from hearbench.results import PAPER, THESE, Results, collect
from hearbench.run.plan import Plan
from hearbench.stats import FrameError, paper_score


def score(
    out: Annotated[Path, tyro.conf.Positional] = Path("runs/eval"),
    *,
    frame: Literal["these", "paper"] | None = None,
    published: PublishedTable | None = None,
    json: bool = False,
) -> int:
    """Aggregated scores s(m), and the table of an evaluation.

    Args:
        out: the evaluation's folder.
        frame: s(m) relative to the runs of "these" systems, or on the scale of the "paper"'s
            Table 2; both if not given.
        published: score the rows that the paper prints in this table, in place of an evaluation.
        json: print JSON.
    """
    if published is not None:
        rows = published_scores(published, frame)
    else:
        results = collect(Plan.load(out.resolve()))
        rows = evaluation_scores(results, frame)
    if json:
        print(json_format.dumps(rows, indent=2, ensure_ascii=False))
    elif published is not None or frame is not None:
        print("\n".join(_line(row) for row in rows))
    else:
        print("\n" + summary(results))
    return 0


def published_scores(table: PublishedTable, frame: str | None) -> list[dict[str, Any]]:
    """s(m) of a printed table's rows from their task scores, and as it is printed.

    Raises:
        FrameError: for any frame but the paper's.
    """
    if frame == "these":
        raise FrameError(
            "s(m) relative to these systems needs their single runs, and the paper prints means: "
            "use --frame paper"
        )
    return [_published_score(row) for row in paper.rows(table)]


def _published_score(row: paper.Row) -> dict[str, Any]:
    found: dict[str, Any] = {"system": row.model, "recipe": row.recipe, "frame": PAPER}
    try:
        found |= {"s": round(paper_score({t: e.mean for t, e in row.scores.items()}), 3)}
    except FrameError as error:
        why = str(error) if row.scores else "the paper prints no task scores of this row"
        found |= {"s": None, "refused": why}
    return {**found, "printed": row.aggregate.mean, "printed_half_width": row.aggregate.half_width}


def evaluation_scores(results: Results, frame: str | None) -> list[dict[str, Any]]:
    """s(m) of each system of an evaluation with its interval over seeds, or why there is none.

    Raises:
        FrameError: if a frame was asked for and no system has an s(m) in it.
    """
    frames = {"these": THESE, "paper": PAPER}
    chosen = frames.values() if frame is None else [frames[frame]]
    rows = []
    for name in chosen:
        if frame is not None and not results.aggregates[name]:
            raise FrameError("; ".join(dict.fromkeys(results.refused[name].values())))
        for entrant in results.plan.entrants:
            label = entrant.system.label
            row: dict[str, Any] = {"system": label, "frame": name, "s": None}
            if value := results.aggregates[name].get(label):
                row |= {"s": value.mean, "half_width": value.half_width, "seeds": value.seeds}
            else:
                row["refused"] = results.refused[name][label]
            rows.append(row)
    return rows


def _line(row: dict[str, Any]) -> str:
    recipe = f" ({row['recipe']})" if row.get("recipe") else ""
    text = f"{row['system'] + recipe:36} "
    if row["s"] is None:
        text += f"no s(m): {row['refused']}"
    else:
        width = row.get("half_width")
        text += f"{row['s']:.1f}" + ("" if width is None else f" ± {width:.1f}")
    if "printed" in row:
        text += f"  printed {row['printed']:.1f} ± {row['printed_half_width']:.1f}"
    return text
