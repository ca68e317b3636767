"""The rows of the paper's tables: sizes and settings that the paper prints."""

from __future__ import annotations

import pytest
import torch

from hear_axlstm.models.pretraining import MaskedPatchModel
from hear_axlstm.pretrain.recipes import RECIPES
from hearbench import paper_tables
from paper.rows import TABLES


def millions(recipe: str) -> float:
    with torch.device("meta"):
        model = MaskedPatchModel(RECIPES[recipe].model)
    return round(sum(p.numel() for p in model.parameters()) / 1e6, 1)


@pytest.mark.parametrize(
    ("table", "printed"),
    [
        ("table2", [5.4, 21.5, 85.7, 4.3, 16.7, 65.6]),
        ("table3", [5.4, 2.9, 4.3, 5.8]),
    ],
)
def test_rows_have_the_sizes_that_the_paper_prints(table: str, printed: list[float]) -> None:
    assert [millions(recipe) for recipe in TABLES[table].rows] == printed  # type: ignore[index]


def test_rows_have_the_settings_that_the_paper_prints() -> None:
    models = [RECIPES[recipe].model for recipe in TABLES["table4"].rows]
    assert [m.grid[0] * m.grid[1] for m in models] == [125, 125, 250, 250, 500, 500]
    assert [m.architecture for m in models] == ["ssast", "axlstm"] * 3
    printed = paper_tables.printed("table5")
    gating = {
        (m.expansion, m.input_gate == "exponential", m.flip): str(printed.get(recipe, "-"))
        for recipe in TABLES["table5"].rows
        for m in [RECIPES[recipe].model]
    }
    assert gating == {
        (2, True, True): "66.9 ± 0.3",
        (2, True, False): "70.1 ± 0.3",
        (2, False, True): "68.2 ± 0.2",
        (2, False, False): "-",
        (3, True, True): "68.8 ± 0.4",
        (3, True, False): "70.7 ± 0.2",
        (3, False, True): "69.6 ± 0.2",
        (3, False, False): "-",
    }


def test_every_recipe_stands_in_a_table() -> None:
    assert {recipe for table in TABLES.values() for recipe in table.rows} == set(RECIPES)
