"""`python -m paper tables`: one of the paper's tables from training runs that are finished."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from hearbench.cli.run import run
from hearbench.exit_codes import INTERRUPTED
from hearbench.published import PublishedTable
from hearbench.results import collect
from hearbench.run.plan import Engine, Plan
from paper import tables


def paper(
    table: Annotated[PublishedTable, tyro.conf.Positional],
    *,
    runs: Path = Path("runs/ablations/runs"),
    tasks_dir: Path | None = None,
    tasks: tuple[str, ...] = (),
    seeds: int = 10,
    out: Path = Path("runs/tables"),
    jobs: int | None = None,
    engine: Engine = "heareval",
) -> int:
    """Score the rows of one of the paper's tables that are trained, beside the published ones.

    Args:
        table: which one.
        runs: folder of training runs, RECIPE/model.safetensors; rows that are missing are named.
        tasks_dir: folder of HEAR task folders; without it ten miniature tasks are generated.
        tasks: names of the tasks, all of the folder if none.
        seeds: how many seeds, from 0 on.
        out: folder of the evaluation and the table; what is finished there is never repeated.
        jobs: evaluation steps at the same time, see `run`.
        engine: what trains the probes, see `run`.
    """
    trained = tables.finished(table, runs)
    chosen = tables.systems(trained)
    place = out / "eval"
    status = run(
        tasks_dir=tasks_dir,
        tasks=tasks,
        systems=chosen,
        seeds=seeds,
        out=place,
        jobs=jobs,
        engine=engine,
    )
    if status != INTERRUPTED:
        file = tables.write(table, trained, collect(Plan.load(place.resolve())), out)
        print(f"\n{file.read_text()}\nTable: {file}")
    return status
