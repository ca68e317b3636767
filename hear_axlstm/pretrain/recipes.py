"""Named runs: the paper's main runs, every row of its ablation tables, and one of ours.

The paper's runs share one schedule: 100 epochs of AudioSet, batch 1024, peak learning rate 6e-4
(section 3.2).
"""

from __future__ import annotations

from typing import Any

from hear_axlstm.config import PRESETS, ModelConfig
from hear_axlstm.pretrain.config import PretrainConfig, Variant


def _paper(model: ModelConfig) -> PretrainConfig:
    """The schedule of section 3.2; 1.5e-4 at batch 256 corresponds to 6e-4 at batch 1024."""
    return PretrainConfig(model=model, epochs=100, batch_size=1024, base_lr=1.5e-4)


def _tiny(expansion: int, **changes: Any) -> PretrainConfig:
    """An ablation of AxLSTM-T, by default with flips in every second block (section 4.2)."""
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
"""The paper's runs. axlstm_tiny itself has expansion 3, no flip and an exponential gate."""

OPEN_CORPUS = "open-corpus"
OPEN_RECIPE = PretrainConfig(
    epochs=20,
    warmup_epochs=1,
    batch_size=32,
    lr=1.5e-3,
    schedule="wsd",
    ema=0.999,
    balance=0.5,
)
"""For tens of hours of audio in a few folders; any model; not from the paper."""


def settings_of(name: str) -> PretrainConfig:
    """Settings of a recipe; the model of open-corpus may be replaced.

    Raises:
        ValueError: for an unknown recipe.
    """
    recipes = {**RECIPES, OPEN_CORPUS: OPEN_RECIPE}
    if name not in recipes:
        raise ValueError(f"unknown recipe {name!r}: choose one of {', '.join(recipes)}")
    return recipes[name]
