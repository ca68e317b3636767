"""Trains the rows of the paper's tables; `paper.tables` shows them.

OUT/runs/<recipe>/           a row's training run; rows that tables share are trained once
OUT/runs/<recipe>-seed1/     the same with another seed of initial weights, order, crops and masks
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hear_axlstm.data.corpus import is_pack
from hear_axlstm.data.pack import pack
from hear_axlstm.pretrain.config import CONFIG
from hear_axlstm.pretrain.recipes import RECIPES
from hear_axlstm.pretrain.run import pretrain
from hear_axlstm.training.signals import Interrupted
from hearbench.paper_tables import PaperTable
from hearbench.synthetic.writer import write_corpus
from paper.rows import TABLES, PaperError, run_name

TOY: dict[str, Any] = {"epochs": 4.0, "batch_size": 16, "lr": 1e-3}  # for the generated corpus


def train(
    table: PaperTable,
    data: Path | None,
    out: Path,
    changes: Mapping[str, Any],
    note: Callable[[str], object],
    trainings: int = 1,
) -> Path:
    """Train the rows of a table one after another; finished ones are skipped, others resumed.

    Args:
        table: the table.
        data: a pack or a folder of audio, which is packed before the first run and not updated
            afterwards; None generates a small corpus and trains for minutes.
        out: folder of all tables.
        changes: settings that override the recipes' own.
        note: called with the name of each row before it is trained.
        trainings: number of training runs per row, with seeds from 0.

    Returns:
        The folder of the runs.

    Raises:
        PaperError: if a row can't be trained.
        Interrupted: after Ctrl-C; run the same command again to resume.
    """
    if trainings < 1:
        raise PaperError(f"trainings={trainings}: at least one is needed")
    if data is None:
        changes = {**TOY, **changes}
    try:
        configs = {  # before the audio is packed, which takes hours
            run_name(recipe, seed): replace(RECIPES[recipe], **changes, seed=seed)
            for seed in range(trainings)
            for recipe in TABLES[table].rows
        }
        if data is None:
            data = write_corpus(out / "corpus")
        if not is_pack(data):
            started = any((out / "runs").glob(f"*/{CONFIG}"))
            data = pack(data, out / "pack", update=not started).output
        for number, (name, config) in enumerate(configs.items(), start=1):
            note(f"[{number}/{len(configs)}] {name}")
            pretrain(config, data, out / "runs" / name)
    except Interrupted:
        raise
    except (ValueError, RuntimeError, OSError) as error:
        raise PaperError(str(error)) from error
    return out / "runs"
