"""Scoring of trained rows of the paper's tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hearbench.paper_tables import PaperTable
from hearbench.run.evaluate import Evaluation, Options, evaluate_systems
from paper.tables import finished, systems, write_table


def score_rows(
    table: PaperTable, runs: Path, out: Path, options: Options, note: Callable[[str], object]
) -> Evaluation:
    """Evaluate the finished training runs of a table's rows and write OUT/<table>.md.

    Args:
        table: the table.
        runs: folder of training runs, see `paper.tables`.
        out: folder of the evaluation and the table; finished work in it is never repeated.
        options: how the rows are evaluated.
        note: called with each message for the user, the table included.

    Raises:
        PaperError: if no row is trained.
        PlanError, TaskError, SystemSpecError, HearevalError, SweepError: as `evaluate_systems`.
    """
    trained = finished(table, runs)
    evaluation = evaluate_systems(systems(trained), out / "eval", options, note)
    file = write_table(table, trained, evaluation.results, out)
    note(f"\n{file.read_text(encoding='utf-8')}\nTable: {file}")
    return evaluation
