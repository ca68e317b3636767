"""`python -m paper tables`: score the finished training runs of one of the paper's tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from hearbench.cli.run import evaluate_systems
from hearbench.published import PublishedTable
from hearbench.results import Results
from hearbench.run.evaluate import Options
from paper.tables import finished, systems, write_table


def tables(
    table: Annotated[PublishedTable, tyro.conf.Positional],
    options: Annotated[Options, tyro.conf.arg(name="")],
    *,
    runs: Path = Path("runs/ablations/runs"),
    out: Path = Path("runs/tables"),
) -> int:
    """Score the trained rows of one of the paper's tables, and compare with the published ones.

    Args:
        table: the table.
        options: how the rows are evaluated.
        runs: folder of training runs, RECIPE/model.safetensors; missing rows are listed.
        out: folder of the evaluation and the table; finished work in it is never repeated.
    """
    return score_rows(table, runs, out, options)


def score_rows(table: PublishedTable, runs: Path, out: Path, options: Options) -> int:
    """Evaluate the trained rows, print the table and write it; returns the exit status."""
    trained = finished(table, runs)

    def write(results: Results) -> None:
        show(write_table(table, trained, results, out))

    return evaluate_systems(systems(trained), out / "eval", options, write)


def show(file: Path) -> None:
    """Print a table and its file's path."""
    print(f"\n{file.read_text(encoding='utf-8')}\nTable: {file}")
