"""The rows of the paper's Tables 2 to 5, each a recipe of hear_axlstm."""

from __future__ import annotations

from dataclasses import dataclass

from hearbench import paper_tables
from hearbench.errors import HearbenchError
from hearbench.paper_tables import PaperTable


class PaperError(HearbenchError, ValueError):
    """Raised if rows of a table can't be trained or scored."""


def run_name(recipe: str, seed: int) -> str:
    """Name of the folder of a row's training run."""
    return f"{recipe}-seed{seed}" if seed else recipe


@dataclass(frozen=True)
class Table:
    """A table of the paper."""

    title: str
    settings: tuple[str, ...]
    """Fields of `ModelConfig` in which its rows differ."""
    rows: tuple[str, ...]
    """Names in `hear_axlstm.pretrain.recipes.RECIPES`, including some that the paper mentions but
    does not print."""


NOT_PRINTED = {
    "axlstm_tiny_e2_flip_sigmoid": "axlstm_tiny_e2_sigmoid",
    "axlstm_tiny_e3_flip_sigmoid": "axlstm_tiny_e3_sigmoid",
}
"""Rows of Table 5 that the paper does not print, by the printed row before each."""


def _rows(table: PaperTable) -> tuple[str, ...]:
    printed = [row.recipe for row in paper_tables.rows(table)]
    both = [recipe for name in printed for recipe in (name, NOT_PRINTED.get(name))]
    return tuple(recipe for recipe in both if recipe)


TABLES: dict[PaperTable, Table] = {
    "table2": Table("Table 2: AxLSTM against SSAST", ("dim",), _rows("table2")),
    "table3": Table("Table 3: expansion factor", ("expansion",), _rows("table3")),
    "table4": Table("Table 4: patch size", ("patch",), _rows("table4")),
    "table5": Table(
        "Table 5: exponential gate and flip",
        ("expansion", "input_gate", "flip"),
        _rows("table5"),
    ),
}
