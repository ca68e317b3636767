"""`hearbench report`: write the report of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from hearbench import report as reports
from hearbench.results import collect
from hearbench.run.plan import Plan


def report(
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="[OUT]")] = Path("runs/eval"),
) -> int:
    """Write the report of the last evaluation: HTML, Markdown, CSV and LaTeX in OUT/report.

    Args:
        out: The evaluation's folder.
    """
    page = reports.write(collect(Plan.load(out.resolve())))
    print(f"Report: {page}, and report.md, .csv and .tex in the same folder.")
    print(f"Next: hearbench score {out}")
    return 0
