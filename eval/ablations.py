"""The paper's ablations from one command: train the rows of a table, score them, show both s(m).

OUT/runs/<recipe>/     a row's training; rows that several tables share are trained once
OUT/eval/              the evaluation, see eval.plan
OUT/<table>.md         the table
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.miniature.writer import write_corpus
from eval.table import FRAMES, Results
from hear_axlstm import weights
from hear_axlstm.config import ModelConfig
from hear_axlstm.data.corpus import is_pack
from hear_axlstm.data.pack import pack
from hear_axlstm.pretrain.interrupt import Interrupted
from hear_axlstm.pretrain.loop import pretrain
from hear_axlstm.pretrain.recipes import RECIPES, TABLES, Row, Table, TableName

TOY: dict[str, Any] = {"epochs": 4.0, "batch_size": 16, "lr": 1e-3}  # for the generated corpus
ANCHOR = "naive"  # scored with the rows: without it the worst row would be the zero of s(m)


class AblationError(ValueError):
    """A row that can't be trained; the message names the remedy."""


def train(table: TableName, data: Path | None, out: Path, changes: Mapping[str, Any]) -> list[Path]:
    """Train the rows of a table one after another; finished ones are skipped, others resumed.

    Args:
        table: which one.
        data: a pack or a folder of audio; None generates a small corpus and trains for minutes.
        out: folder of all tables.
        changes: settings to use in place of the recipes' own.

    Returns:
        The rows' weights.

    Raises:
        AblationError: if a row can't be trained.
        Interrupted: after Ctrl-C; the same command goes on.
    """
    rows = TABLES[table].rows
    trained = {}
    try:
        if data is None:
            data, changes = write_corpus(out / "corpus"), {**TOY, **changes}
        packed = data if is_pack(data) else pack(data, out / "pack").folder
        for number, row in enumerate(rows, start=1):
            print(f"[{number}/{len(rows)}] {row.recipe}", flush=True)
            config = replace(RECIPES[row.recipe], **changes)
            trained.append(pretrain(config, packed, out / "runs" / row.recipe))
    except Interrupted:
        raise
    except (ValueError, RuntimeError, OSError) as error:
        raise AblationError(str(error)) from error
    return trained


def systems(table: TableName, trained: list[Path]) -> tuple[str, ...]:
    """What to evaluate, as `eval.systems.parse_systems` takes it."""
    rows = zip(TABLES[table].rows, trained, strict=True)
    return (ANCHOR, *(f"{row.recipe}=hear_axlstm@{path}" for row, path in rows))


def write(table: TableName, trained: list[Path], results: Results, out: Path) -> str:
    """Write OUT/<table>.md; gives its text."""
    text = markdown(TABLES[table], trained, results)
    (out / f"{table}.md").write_text(text)
    return text


def markdown(table: Table, trained: list[Path], results: Results) -> str:
    """The table, a row's held-out loss and s(m) beside the s(m) that the paper prints."""
    official = "the paper's Table 2"
    frame = official if results.aggregates[official] else "these systems"
    heads = [
        "recipe",
        *table.settings,
        "parameters",
        "held-out loss",
        FRAMES[frame],
        "printed s(m)",
    ]
    lines = [heads, ["---"] * len(heads)]
    for row, path in zip(table.rows, trained, strict=True):
        score = results.aggregates[frame].get(row.recipe)
        lines.append([*_cells(table, row, path), str(score or "-"), row.printed or "-"])
    caption = (
        f"{table.title}. The printed s(m) are the paper's. "
        + (
            "Both are on the scale of the paper's Table 2."
            if frame == official
            else f"Ours is relative to these rows and HEAR-{ANCHOR} on {len(results.plan.tasks)} "
            "task(s): compare the order, not the numbers."
        )
        + f" {results.plan.seeds} seed(s). Losses of different patch sizes don't compare."
    )
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", caption]) + "\n"


def _cells(table: Table, row: Row, path: Path) -> list[str]:
    """Settings, parameters and held-out loss, as the weights' file tells them."""
    config, training, tensors = weights.read(path)
    loss = training["held_out_loss"]
    return [
        row.recipe,
        *(_setting(config, name) for name in table.settings),
        f"{sum(tensor.numel() for tensor in tensors.values()):,}",
        "-" if loss is None else f"{loss:.4f}",
    ]


def _setting(config: ModelConfig, name: str) -> str:
    if config.architecture == "ssast" and name == "expansion":
        return "-"
    value = getattr(config, name)
    return " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)
