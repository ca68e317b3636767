"""`python -m paper tables`: score the finished training runs of one of the paper's tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from hearbench.cli.run import conclude, print_table
from hearbench.exit_codes import INTERRUPTED
from hearbench.published import PublishedTable
from hearbench.results import Results, collect
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
    trained = tables.finished(table, runs)

    def write(results: Results) -> Path:
        return tables.write(table, trained, results, out)

    return evaluate_rows(tables.systems(trained), out / "eval", options, write)


def evaluate_rows(
    systems: tuple[str, ...], place: Path, options: Options, write: Callable[[Results], Path]
) -> int:
    """Evaluate systems in a folder, and print the table that `write` makes of the results."""
    with lock_dir(place):
        plan = make_plan(systems, place, options, print)
        try:
            failures = evaluate(plan, options, print_table)
        except KeyboardInterrupt:
            print("Interrupted. Finished work is kept; run the same command again to resume.")
            return INTERRUPTED
        file = write(collect(plan))
        print(f"\n{file.read_text(encoding='utf-8')}\nTable: {file}")
        return conclude(place, failures)
