"""`hearbench score`: s(m) of the last evaluation, or of one of the paper's tables."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from hearbench import paper_tables
from hearbench.options import option
from hearbench.paper_tables import PaperTable
from hearbench.report.exports import summary
from hearbench.results import PAPER, THESE, Results, collect
from hearbench.run.plan import Plan
from hearbench.stats import AggregateError, Estimate, paper_score

SPREAD = ("half_width", "seeds", "lowest", "highest")
"""The fields of an `Estimate` besides its mean."""


def score(
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="[OUT]")] = Path("runs/eval"),
    *,
    scale: Annotated[Literal["these", "paper"] | None, option("these|paper")] = None,
    printed: Annotated[PaperTable | None, option("|".join(get_args(PaperTable)))] = None,
    json: bool = False,
) -> int:
    """Print aggregated scores s(m), and the table of an evaluation.

    Args:
        out: The evaluation's folder.
        scale: Scale of s(m): "these" is relative to the evaluated systems, "paper" is that of the
            paper's Table 2 (default: both).
        printed: Score the printed rows of this table of the paper instead of an evaluation.
        json: Print JSON.
    """
    if printed is not None:
        rows = printed_scores(printed, scale)
    else:
        results = collect(Plan.load(out.resolve()))
        rows = evaluation_scores(results, scale)
    if json:
        print(json_format.dumps(rows, indent=2, ensure_ascii=False))
    elif printed is not None or scale is not None:
        print("\n".join(_line(row) for row in rows))
    else:
        print("\n" + summary(results))
    return 0


def printed_scores(table: PaperTable, scale: str | None) -> list[dict[str, Any]]:
    """s(m) of a printed table's rows, computed from their task scores and as printed.

    Raises:
        AggregateError: for any scale except the paper's.
    """
    if scale == "these":
        raise AggregateError(
            "s(m) relative to these systems needs their single runs, but the paper prints means: "
            "use --scale paper"
        )
    return [_printed_score(row) for row in paper_tables.rows(table)]


def _printed_score(row: paper_tables.Row) -> dict[str, Any]:
    found: dict[str, Any] = {"system": row.model, "recipe": row.recipe, "scale": PAPER}
    try:
        found |= {"s": round(paper_score({t: e.mean for t, e in row.scores.items()}), 3)}
    except AggregateError as error:
        why = str(error) if row.scores else "the paper prints no task scores for this row"
        found |= {"s": None, "refused": why}
    return {**found, "printed": row.aggregate.mean, "printed_half_width": row.aggregate.half_width}


def evaluation_scores(results: Results, scale: str | None) -> list[dict[str, Any]]:
    """s(m) of each system of an evaluation with its interval over seeds, or why there is none.

    Raises:
        AggregateError: if a scale was requested and no system has an s(m) on it.
    """
    scales = {"these": THESE, "paper": PAPER}
    chosen = scales.values() if scale is None else [scales[scale]]
    rows = []
    for name in chosen:
        if scale is not None and not results.aggregates[name]:
            raise AggregateError("; ".join(dict.fromkeys(results.refused[name].values())))
        for system in results.plan.systems:
            label = system.label
            row: dict[str, Any] = {"system": label, "scale": name, "s": None}
            if value := results.aggregates[name].get(label):
                row |= {"s": value.mean, **{field: getattr(value, field) for field in SPREAD}}
            else:
                row["refused"] = results.refused[name][label]
            rows.append(row)
    return rows


def _line(row: dict[str, Any]) -> str:
    recipe = f" ({row['recipe']})" if row.get("recipe") else ""
    text = f"{row['system'] + recipe:36} "
    if row["s"] is None:
        text += f"no s(m): {row['refused']}"
    elif "seeds" in row:
        text += str(Estimate(row["s"], *(row[name] for name in SPREAD)))
    else:
        text += f"{row['s']:.1f}"
    if "printed" in row:
        text += f"  printed {row['printed']:.1f} ± {row['printed_half_width']:.1f}"
    return text
