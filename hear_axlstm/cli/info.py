"""`axlstm info`: settings of presets and weights, and the kernels used on this machine."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from typing import Annotated, Any

import tyro

from hear_axlstm.checkpoints import manifest
from hear_axlstm.checkpoints.format import read_settings
from hear_axlstm.checkpoints.published import PUBLISHED, TAG
from hear_axlstm.checkpoints.shapes import parameters
from hear_axlstm.cli.weights import locate
from hear_axlstm.config import PRESETS
from hear_axlstm.ops import library
from hear_axlstm.ops.backends import SWITCH, backend

SIZES = ("parameters", "dim", "depth", "heads", "patch")
COLUMNS = ("name", *SIZES, "layout", "scene_embedding_size", "weights")


def info(
    models: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """List presets or weights: parameters, widths, patch, layout and embedding sizes.

    Also prints whether the compiled CPU kernel is in use and, if not, what to do.

    Args:
        models: Presets, names of weights, files, folders or hf:// addresses; by default all
            presets.
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
    print(f"CPU kernel: {_kernel()}")


def _describe(name: str) -> dict[str, Any]:
    config, training = (PRESETS[name], {}) if name in PRESETS else read_settings(locate(name))
    return {
        "name": name,
        "parameters": parameters(config),
        "scene_embedding_size": config.embedding_size,
        "timestamp_embedding_size": config.embedding_size,
        "sample_rate": config.mel.sample_rate,
        "step_ms": 1000 * config.step_seconds,
        **config.to_dict(),
        **({"training": training} if training else {}),
        "weights": _weights(name),
        "cpu_kernel": backend("cpu") == "cpu",
    }


def _weights(name: str) -> list[str]:
    """Tags of a preset's weights, and whether the downloadable ones are in the cache."""
    if name not in PRESETS:
        return ["here"]
    shipped = manifest()["weights"].get(name)
    here = PUBLISHED[f"{name}.{TAG}"].path.is_file()
    return [
        *([f"{shipped['tag']} (ships)"] if shipped else []),
        f"{TAG} ({'downloaded' if here else 'to download'})",
    ]


def _kernel() -> str:
    """State of the compiled kernel: in use, or why not and what to do."""
    if backend("cpu") == "cpu":
        return "in use"
    reinstall = "run `pip install --force-reinstall --no-deps .` in a clone of this package"
    if library.is_available():
        reason = f"switched off by {SWITCH}={os.environ.get(SWITCH)}; unset it"
    elif find_spec("hear_axlstm.ops._cpu"):
        reason = f"not usable, as it does not load or fit this version; {reinstall}"
    else:
        reason = f"not built, as there was no C++ compiler; install one and {reinstall}"
    return f"{reason}. PyTorch is used instead: the same results, more slowly"


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(value)
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
