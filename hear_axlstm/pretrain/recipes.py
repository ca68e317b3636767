"""The paper's experiments as settings: its main runs, and every row of its ablation tables.

All were trained alike: 100 epochs of AudioSet, batch 1024, peak learning rate 6e-4 (section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from hear_axlstm.config import PRESETS, ModelConfig
from hear_axlstm.pretrain.config import PretrainConfig, Variant

TableName = Literal["comparison", "expansion", "patch", "gating"]


def _paper(model: ModelConfig) -> PretrainConfig:
    """The schedule of section 3.2; 1.5e-4 is for a batch of 256, so that 1024 gives 6e-4."""
    return PretrainConfig(model=model, epochs=100, batch_size=1024, base_lr=1.5e-4)


def _tiny(expansion: int, **changes: Any) -> PretrainConfig:
    """An ablation of AxLSTM-T; unless said otherwise with flips in every second block (4.2)."""
    return _paper(Variant("axlstm_tiny", expansion=expansion, **{"flip": True, **changes}).build())


RECIPES: dict[str, PretrainConfig] = {
    **{name: _paper(model) for name, model in PRESETS.items()},
    "axlstm_tiny_e2_flip": _tiny(2),
    "axlstm_tiny_e3_flip": _tiny(3),
    "axlstm_tiny_e4_flip": _tiny(4),
    "axlstm_tiny_e2_flip_8x16": _tiny(2, patch=(8, 16)),
    "axlstm_tiny_e2_flip_4x8": _tiny(2, patch=(4, 8)),
    "ssast_tiny_8x16": _paper(Variant("ssast_tiny", patch=(8, 16)).build()),
    "ssast_tiny_4x8": _paper(Variant("ssast_tiny", patch=(4, 8)).build()),
    "axlstm_tiny_e2": _tiny(2, flip=False),
    "axlstm_tiny_e2_flip_sigmoid": _tiny(2, input_gate="sigmoid"),
    "axlstm_tiny_e2_sigmoid": _tiny(2, flip=False, input_gate="sigmoid"),
    "axlstm_tiny_e3_flip_sigmoid": _tiny(3, input_gate="sigmoid"),
    "axlstm_tiny_e3_sigmoid": _tiny(3, flip=False, input_gate="sigmoid"),
}
"""A run's settings by name. axlstm_tiny itself is expansion 3, no flip, exponential gate."""


@dataclass(frozen=True)
class Table:
    """A table of the paper; what it prints is in `eval/published`."""

    title: str
    settings: tuple[str, ...]
    """What tells its rows apart: fields of `ModelConfig`."""
    rows: tuple[str, ...]
    """Their settings, in `RECIPES`; some the paper speaks of but does not print."""


TABLES: dict[TableName, Table] = {
    "comparison": Table(
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


def from_recipe(name: str, settings: PretrainConfig, model: Variant) -> PretrainConfig:
    """A recipe with every setting in which `settings` differs from the defaults.

    Raises:
        ValueError: for an unknown recipe, or if anything is said of the model.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    if model.changes:
        raise ValueError(
            f"recipe {name!r} says which model to train: leave out {', '.join(model.changes)}"
        )
    default = PretrainConfig()
    names = [f.name for f in fields(default) if f.name != "model"]
    changes = {
        n: getattr(settings, n) for n in names if getattr(settings, n) != getattr(default, n)
    }
    return replace(RECIPES[name], **changes)
