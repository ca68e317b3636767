"""The rows of the paper's Tables 2 to 5, each a recipe of hear_axlstm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hearbench.published import PublishedTable

TableName = Literal["comparison", "expansion", "patch", "gating"]


@dataclass(frozen=True)
class Table:
    """A table of the paper."""

    name: PublishedTable
    title: str
    settings: tuple[str, ...]
    """Fields of `ModelConfig` in which its rows differ."""
    rows: tuple[str, ...]
    """Names in `hear_axlstm.pretrain.recipes.RECIPES`, including some that the paper mentions but
    does not print."""


TABLES: dict[TableName, Table] = {
    "comparison": Table(
        "table2",
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
    "expansion": Table(
        "table3",
        "Table 3: expansion factor",
        ("expansion",),
        (
            "ssast_tiny",
            "axlstm_tiny_e2_flip",
            "axlstm_tiny_e3_flip",
            "axlstm_tiny_e4_flip",
        ),
    ),
    "patch": Table(
        "table4",
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
    "gating": Table(
        "table5",
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
