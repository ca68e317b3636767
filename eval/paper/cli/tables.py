"""`python -m paper tables`: one of the paper's tables from training runs that are finished."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from hearbench.cli.run import conclude, print_table
from hearbench.exit_codes import INTERRUPTED
from hearbench.published import PublishedTable
from hearbench.results import collect
from hearbench.run.evaluate import Options, evaluate, make_plan
from hearbench.run.plan import lock_dir
from paper import tables


def paper(
    table: Annotated[PublishedTable, tyro.conf.Positional],
    options: Annotated[Options, tyro.conf.arg(name="")],
    *,
    runs: Path = Path("runs/ablations/runs"),
    out: Path = Path("runs/tables"),
) -> int:
    """Score the trained rows of one of the paper's tables, beside the published ones.

    Args:
        table: which one.
        options: how the rows are evaluated.
        runs: folder of training runs, RECIPE/model.safetensors; rows that are missing are named.
        out: folder of the evaluation and the table; what is finished there is never repeated.
    """
    return score_rows(table, runs, out, options)


def score_rows(table: PublishedTable, runs: Path, out: Path, options: Options) -> int:
    """Evaluate the trained rows, print the table and write it; returns the exit status."""
    trained = tables.finished(table, runs)
    place = out / "eval"
    with lock_dir(place):
        plan = make_plan(tables.systems(trained), place, options, print)
        try:
            failures = evaluate(plan, options, print_table)
        except KeyboardInterrupt:
            print("Interrupted. What is finished stays; run the same command again to resume.")
            return INTERRUPTED
        file = tables.write(table, trained, collect(plan), out)
        print(f"\n{file.read_text()}\nTable: {file}")
        return conclude(place, failures)
