"""`python -m paper ablations`: train and score the rows of one of the paper's tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

from hear_axlstm.training.signals import Interrupted
from hearbench.cli.call import INTERRUPTED
from hearbench.options import option
from hearbench.paper_tables import PaperTable
from hearbench.run.evaluate import Options
from paper.scoring import score_rows
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
    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    changes = {name: value for name, value in given.items() if value is not None}
    try:
        runs = train(table, data, out, changes, trainings)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return INTERRUPTED
    evaluation = score_rows(table, runs, out, options, print)
    print(evaluation.outcome)
    return 1 if evaluation.failures else 0
