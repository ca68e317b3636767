"""The systems to compare, modules behind the HEAR API: their specs, and loading them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from hearbench.errors import HearbenchError
from hearbench.systems.catalog import CATALOG

HEAR_API = ("load_model", "get_scene_embeddings", "get_timestamp_embeddings")


class SystemSpecError(HearbenchError, ValueError):
    """Raised for a system that can't be found or loaded; the message names the remedy."""


@dataclass(frozen=True)
class System:
    """A module behind the HEAR API, with the weights to load."""

    label: str
    """Its row in the table."""
    module: str
    """Import name of the module."""
    checkpoint: str = ""
    """Path passed to `load_model`; empty for the module's default."""


DEFAULTS = ("naive", "spectrum", "logmel", "random", "ssast_tiny", "axlstm_tiny")
"""Specs of the systems that are evaluated if none are named."""
RANDOM = System("random", "hear_axlstm", "axlstm_tiny.random")
WEIGHTS = re.compile(r"(axlstm|ssast)_(tiny|small|base)(\.\w+)?")
"""Names of weights that hear_axlstm loads."""


def parse_systems(specs: Sequence[str]) -> tuple[System, ...]:
    """The systems that `specs` name: those of `DEFAULTS` if there are none.

    A spec is `random`, `[LABEL=]NAME[@CHECKPOINT]` with a name from the catalog, `[LABEL=]WEIGHTS`
    such as `axlstm_base.audioset`, or `[LABEL=]MODULE[@CHECKPOINT]`.

    Raises:
        SystemSpecError: for a malformed spec, or a label used twice.
    """
    systems = tuple(parse_system(spec) for spec in specs or DEFAULTS)
    labels = [system.label for system in systems]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise SystemSpecError(
            f"label {twice[0]!r} is used twice: give one of them another label, "
            "LABEL=MODULE[@CHECKPOINT]"
        )
    return systems


def parse_system(spec: str) -> System:
    """The system that one spec names (see `parse_systems`)."""
    if spec == RANDOM.label:
        return RANDOM
    match = re.fullmatch(r"(?:([\w.+-]+)=)?([A-Za-z_][\w.]*)(?:@(.+))?", spec)
    if match is None:
        names = ", ".join(DEFAULTS)
        raise SystemSpecError(
            f"system {spec!r}: use one of {names}, or [LABEL=]MODULE[@CHECKPOINT]"
        )
    label, name, checkpoint = match[1], match[2], match[3] or ""
    if WEIGHTS.fullmatch(name):
        if checkpoint:
            raise SystemSpecError(
                f"system {spec!r}: {name} names weights itself: for a file, use "
                f"hear_axlstm@{checkpoint}"
            )
        return System(label or name, "hear_axlstm", name)
    stem = re.sub(r"\.(safetensors|pth|pt|ckpt)$", "", Path(checkpoint).name)
    said = not stem or stem.lower().startswith(name)
    default = (stem or name) if said else f"{name}-{stem}"
    return System(
        label or re.sub(r"[^\w.+-]+", "-", default), _module(name, checkpoint), checkpoint
    )


def _module(name: str, checkpoint: str) -> str:
    """The import name of a system of the catalog, or of any other module."""
    if (card := CATALOG.get(name)) is None:
        return name
    if card.checkpoint and not checkpoint:
        raise SystemSpecError(
            f"system {name!r} needs weights: write {name}@{card.checkpoint} with their path "
            f"(`hearbench weights list` shows what can be downloaded)"
        )
    return f"hearbench.systems.{name}"


def load_system(system: System) -> tuple[ModuleType, Any]:
    """Import a system's module and load its model.

    Raises:
        SystemSpecError: if it can't be imported or loaded, or does not follow the HEAR API.
    """
    try:
        module = import_module(system.module)
    except (Exception, SystemExit) as error:  # any module may fail in its own way
        raise SystemSpecError(
            f"system {system.label!r}: can't import {system.module!r} ({type(error).__name__}: "
            f"{error}); install it, or run from its folder"
        ) from error
    if missing := [name for name in HEAR_API if not hasattr(module, name)]:
        raise SystemSpecError(
            f"{system.module} is not a HEAR module: it lacks {', '.join(missing)}"
        )
    try:
        model = module.load_model(*([system.checkpoint] if system.checkpoint else []))
    except (Exception, SystemExit) as error:
        raise SystemSpecError(
            f"system {system.label!r}: {system.module}.load_model({system.checkpoint!r}) failed: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(getattr(model, "sample_rate", None), int):
        raise SystemSpecError(f"{system.module}: the model's sample_rate must be an int (HEAR API)")
    return module, model
