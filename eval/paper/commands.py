"""The commands of `python -m paper`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from hear_axlstm.training.signals import Interrupted
from hearbench.cli.call import INTERRUPTED
from hearbench.options import option
from hearbench.paper_tables import PaperTable
from hearbench.run.evaluate import Evaluation, Options, check_options, evaluate_systems
from paper.rerun import FILE, OWN, check_tasks, markdown, specs
from paper.tables import finished, systems, write_table
from paper.training import train


def ablations(
    options: Annotated[Options, tyro.conf.arg(name="")],
    data: Annotated[Path | None, tyro.conf.Positional, option("[DATA]")] = None,
    *,
    table: PaperTable = "table3",
    epochs: Annotated[float | None, option("N")] = None,
    batch_size: Annotated[int | None, option("N")] = None,
    lr: Annotated[float | None, option("LR")] = None,
    trainings: int = 1,
    out: Path = Path("runs/ablations"),
) -> int:
    """Train and score the rows of one of the paper's tables; finished work is never repeated.

    Args:
        options: how the rows are evaluated.
        data: a pack from `axlstm pack`, or a folder of audio; by default a generated toy corpus.
        table: table2 (AxLSTM against SSAST), table3 (expansion factor), table4 (patch size) or
            table5 (exponential gate and flip).
        epochs: number of epochs, instead of the paper's 100.
        batch_size: batch size, instead of the paper's 1024.
        lr: peak learning rate, instead of the paper's 1.5e-4 x batch / 256.
        trainings: number of training runs per row, with seeds from 0.
        out: output folder.
    """
    check_options(options)  # training takes days
    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    changes = {name: value for name, value in given.items() if value is not None}
    try:
        runs = train(table, data, out, changes, partial(print, flush=True), trainings)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return INTERRUPTED
    return tables(table, options, runs=runs, out=out)


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
    trained = finished(table, runs)
    evaluation = evaluate_systems(systems(trained), out / "eval", options, print)
    return _show(evaluation, write_table(table, trained, evaluation.results, out))


def rerun(
    options: Annotated[Options, tyro.conf.arg(name="")],
    *,
    weights: str,
    out: Path = Path("runs/tables"),
) -> int:
    """Evaluate published checkpoints, and compare their scores with the paper's Table 2.

    Args:
        options: how the systems are evaluated.
        weights: folder with checkpoints under their official names, at any depth, or "published"
            to download all that can be downloaded.
        out: folder of the evaluation and the table; finished work in it is never repeated.
    """
    check_tasks(weights, options)
    found = specs(weights)
    print("Found: " + ", ".join(found))
    evaluation = evaluate_systems((*found.values(), *OWN), out / "rerun", options, print)
    file = out / FILE
    file.write_text(markdown(evaluation.results, found), encoding="utf-8")
    return _show(evaluation, file)


def _show(evaluation: Evaluation, table: Path) -> int:
    """Print a table and the outcome; returns the exit code."""
    print(f"\n{table.read_text(encoding='utf-8')}\nTable: {table}")
    print(evaluation.outcome)
    return 1 if evaluation.failures else 0
