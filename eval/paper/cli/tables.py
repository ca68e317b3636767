"""`python -m paper tables`: score the finished training runs of one of the paper's tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from hearbench.paper_tables import PaperTable
from hearbench.run.evaluate import Options
from paper.scoring import score_rows


def tables(
    table: Annotated[PaperTable, tyro.conf.Positional],
    options: Annotated[Options, tyro.conf.arg(name="")],
    *,
    runs: Path = Path("runs/ablations/runs"),
    out: Path = Path("runs/tables"),
) -> int:
    """Score the trained rows of one of the paper's tables, and compare with the printed ones.

    Args:
        table: the table.
        options: how the rows are evaluated.
        runs: folder of training runs, RECIPE/model.safetensors; missing rows are listed.
        out: folder of the evaluation and the table; finished work in it is never repeated.
    """
    evaluation = score_rows(table, runs, out, options, print)
    print(evaluation.outcome)
    return 1 if evaluation.failures else 0
