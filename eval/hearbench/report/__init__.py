"""The report of an evaluation: one self-contained HTML page, and Markdown, CSV and LaTeX.

OUT/report/report.html, report.md, report.csv, report.tex
OUT/table.md                the scores alone
"""

from __future__ import annotations

from pathlib import Path

from hearbench.files import write_text
from hearbench.report import exports
from hearbench.report.content import gather
from hearbench.report.page import html
from hearbench.results import Results


def write_table(results: Results) -> str:
    """Write the table of scores into the plan's folder and return it, as Markdown."""
    text = exports.summary(results)
    write_text(results.plan.out / "table.md", text)
    return text


def write(results: Results) -> Path:
    """Write all formats into the plan's folder and return the path of the HTML page."""
    folder = results.plan.out / "report"
    folder.mkdir(parents=True, exist_ok=True)
    content = gather(results)
    for name, text in {
        "report.md": exports.markdown(content),
        "report.csv": exports.table_csv(content),
        "report.tex": exports.latex(content),
        "report.html": html(content),
    }.items():
        write_text(folder / name, text)
    return folder / "report.html"
