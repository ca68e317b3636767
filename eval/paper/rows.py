"""The rows of the paper's Tables 2 to 5, each a recipe of hear_axlstm."""

from __future__ import annotations

from dataclasses import dataclass

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


TABLES: dict[PaperTable, Table] = {
    "table2": Table(
        "Table 2: AxLSTM against SSAST",
        ("dim",),
        (
            "ssast_tiny",
            "ssast_small",
            "ssast_base",
            "axlstm_tiny",
            "axlstm_small",
            "axlstm_base",
        ),
    ),
    "table3": Table(
        "Table 3: expansion factor",
        ("expansion",),
        (
            "ssast_tiny",
            "axlstm_tiny_e2_flip",
            "axlstm_tiny_e3_flip",
            "axlstm_tiny_e4_flip",
        ),
    ),
    "table4": Table(
        "Table 4: patch size",
        ("patch",),
        (
            "ssast_tiny_8x16",
            "axlstm_tiny_e2_flip_8x16",
            "ssast_tiny",
            "axlstm_tiny_e2_flip",
            "ssast_tiny_4x8",
            "axlstm_tiny_e2_flip_4x8",
        ),
    ),
    "table5": Table(
        "Table 5: exponential gate and flip",
        ("expansion", "input_gate", "flip"),
        (
            "axlstm_tiny_e2_flip",
            "axlstm_tiny_e2",
            "axlstm_tiny_e2_flip_sigmoid",
            "axlstm_tiny_e2_sigmoid",
            "axlstm_tiny_e3_flip",
            "axlstm_tiny",
            "axlstm_tiny_e3_flip_sigmoid",
            "axlstm_tiny_e3_sigmoid",
        ),
    ),
}
