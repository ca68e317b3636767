"""`axlstm info`: what presets and files of weights are."""

from __future__ import annotations

import json
from typing import Annotated, Any

import torch
import tyro

from hear_axlstm import checkpoints
from hear_axlstm.config import PRESETS
from hear_axlstm.models.pretraining import MaskedPatchModel
from hear_axlstm.ops import native

COLUMNS = ("name", "parameters", "dim", "depth", "heads", "patch", "layout", "scene_embedding_size")


def info(
    models: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """List presets or files of weights: parameters, widths, patch, layout and embedding sizes.

    And whether the compiled part of the mLSTM block is in use here.

    Args:
        models: Presets, files, folders or hf:// addresses; all presets by default.
        as_json: Print JSON, with every setting, instead of a table.
    """
    rows = [_describe(name) for name in models or PRESETS]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    cells = [COLUMNS, *(tuple(_cell(row[c]) for c in COLUMNS) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip())
    print(f"compiled block: {'in use' if native.is_in_use() else 'not in use'}")


def _describe(name: str) -> dict[str, Any]:
    training: dict[str, Any] = {}
    if name in PRESETS:
        config = PRESETS[name]
    else:
        config, training, _ = checkpoints.read(checkpoints.locate(name))
    with torch.device("meta"):  # sizes only: base would take a second and 350 MB
        parameters = sum(p.numel() for p in MaskedPatchModel(config).parameters())
    return {
        "name": name,
        "parameters": parameters,
        "scene_embedding_size": config.embedding_size,
        "timestamp_embedding_size": config.embedding_size,
        "sample_rate": config.mel.sample_rate,
        "step_ms": 1000 * config.step_seconds,
        **config.to_dict(),
        **({"training": training} if training else {}),
        "compiled_block": native.is_in_use(),
    }


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
