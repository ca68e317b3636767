"""`python -m eval report`: write the report of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from eval import report as reports
from eval.plan import Plan
from eval.results import collect


def report(out: Annotated[Path, tyro.conf.Positional] = Path("runs/eval")) -> int:
    """Write the report of the last evaluation: HTML, Markdown, CSV and LaTeX in OUT/report.

    Args:
        out: the evaluation's folder.
    """
    page = reports.write(collect(Plan.load(out.resolve())))
    print(f"Report: {page}, and report.md, .csv and .tex beside it.")
    return 0
