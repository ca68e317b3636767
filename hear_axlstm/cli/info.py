"""`axlstm info`: settings of presets and weights, and what runs on this machine."""

from __future__ import annotations

import json
import os
import platform
from importlib.util import find_spec
from typing import Annotated, Any

import torch
import tyro

from hear_axlstm import __version__
from hear_axlstm.checkpoints import manifest
from hear_axlstm.checkpoints.authors.published import PUBLISHED, TAG
from hear_axlstm.checkpoints.cache import weights_dir
from hear_axlstm.checkpoints.format import read_settings
from hear_axlstm.checkpoints.resolve import RANDOM, random_preset
from hear_axlstm.checkpoints.shapes import parameters
from hear_axlstm.cli.weights import local_file
from hear_axlstm.config import PRESETS
from hear_axlstm.ops import library
from hear_axlstm.ops.backends import SWITCH, backend
from hear_axlstm.options import option

SIZES = ("parameters", "dim", "depth", "heads", "patch")
COLUMNS = ("name", *SIZES, "layout", "scene_embedding_size", "weights")


def info(
    models: Annotated[tuple[str, ...], tyro.conf.Positional, option("MODEL ...")] = (),
    *,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """List presets or weights: parameters, widths, patch, layout and embedding sizes.

    Also prints versions, devices, threads, the cache of downloaded weights, and whether the
    compiled CPU kernel is in use and, if not, what to do.

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
    for what, state in _machine().items():
        print(f"{what}: {state}")


def _machine() -> dict[str, str]:
    """Facts about this machine that a problem report needs."""
    here = [weights for weights in PUBLISHED.values() if weights.path.is_file()]
    size = sum(weights.path.stat().st_size for weights in here) / 1e6
    return {
        "versions": f"hear_axlstm {__version__}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, {platform.platform(terse=True)}",
        "devices": ", ".join(_devices()),
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} cores",
        "cache": f"{weights_dir()} ({len(here)} of the {len(PUBLISHED)} downloadable weights, "
        f"{size:.0f} MB)",
        "CPU kernel": _kernel(),
    }


def _devices() -> list[str]:
    names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    cuda = [f"cuda:{n} {name} (backend {backend(f'cuda:{n}')})" for n, name in enumerate(names)]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [f"cpu (backend {backend('cpu')})", *cuda, *mps]


def _describe(name: str) -> dict[str, Any]:
    known = random_preset(name) or name
    config, training = (PRESETS[known], {}) if known in PRESETS else read_settings(local_file(name))
    return {
        "name": name,
        "parameters": parameters(config),
        "scene_embedding_size": config.scene_embedding_size,
        "timestamp_embedding_size": config.embedding_size,
        "sample_rate": config.mel.sample_rate,
        "step_ms": 1000 * config.step_seconds,
        **config.to_dict(),
        **({"training": training} if training else {}),
        "weights": _weights(name),
    }


def _weights(name: str) -> list[str]:
    """Tags of a preset's weights, and whether the downloadable ones are in the cache."""
    if random_preset(name):
        return [RANDOM]
    if name not in PRESETS:
        return ["local"]
    shipped = manifest()["weights"].get(name)
    tags = [f"{shipped['tag']} (ships)"] if shipped else []
    if authors := PUBLISHED.get(f"{name}.{TAG}"):
        state = "downloaded" if authors.path.is_file() else "to download"
        tags.append(f"{TAG} ({state}{'' if shipped else '; none ship'})")
    return tags or [f"{RANDOM} (none ship)"]


def _kernel() -> str:
    """State of the compiled kernel: in use, or why not and what to do."""
    if backend("cpu") == "cpu":
        return "in use"
    reinstall = "run `pip install --force-reinstall --no-deps .` in a clone of this package"
    if library.is_available():
        reason = f"switched off by {SWITCH}={os.environ.get(SWITCH)}; unset it"
    elif find_spec("hear_axlstm.ops._cpu"):
        reason = f"not usable, because it does not load or is from another version; {reinstall}"
    else:
        reason = f"not built, because no C++ compiler was found; install one and {reinstall}"
    return f"{reason}. PyTorch is used instead: the same results, but slower"


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(value)
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
