"""The systems to compare: modules behind the HEAR API, and their fingerprints."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, is_dataclass
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from hearbench.errors import HearbenchError
from hearbench.systems.catalog import CATALOG
from hearbench.systems.catalog import __name__ as CATALOG_MODULE

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
    model: str = ""
    """Path passed to `load_model`; empty for the module's default."""


@dataclass(frozen=True)
class Fingerprint:
    """Identity and size of a system, found by loading it."""

    digest: str
    """Digest of weights and code; embeddings of another digest are never reused."""
    sample_rate: int
    """Sample rate of its input in Hz."""
    parameters: int
    """Number of parameters; 0 if there are none or they can't be counted."""
    version: str
    """The module's `__version__`, or empty."""


DEFAULTS = ("naive", "spectrum", "logmel", "random", "ssast_tiny", "axlstm_tiny")
"""Specs of the systems that are evaluated if none are named."""
RANDOM = System("random", "hear_axlstm", "axlstm_tiny.random")
WEIGHTS = re.compile(r"(axlstm|ssast)_(tiny|small|base)(\.\w+)?")
"""Names of weights that hear_axlstm loads."""


def parse_systems(specs: Sequence[str]) -> tuple[System, ...]:
    """The systems that `specs` name: those of `DEFAULTS` if there are none.

    A spec is `random`, `[LABEL=]NAME[@CHECKPOINT]` with a name from the catalog, `[LABEL=]WEIGHTS`
    such as `axlstm_base.audioset`, or `[LABEL=]MODULE[@MODEL]`.

    Raises:
        SystemSpecError: for a malformed spec, or a label used twice.
    """
    systems = tuple(parse_system(spec) for spec in specs or DEFAULTS)
    labels = [system.label for system in systems]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise SystemSpecError(f"label {twice[0]!r} is used twice: write LABEL=MODULE[@MODEL]")
    return systems


def parse_system(spec: str) -> System:
    """The system that one spec names (see `parse_systems`)."""
    if spec == RANDOM.label:
        return RANDOM
    match = re.fullmatch(r"(?:([\w.+-]+)=)?([A-Za-z_][\w.]*)(?:@(.+))?", spec)
    if match is None:
        names = ", ".join(DEFAULTS)
        raise SystemSpecError(f"system {spec!r}: use one of {names}, or [LABEL=]MODULE[@MODEL]")
    label, name, model = match[1], match[2], match[3] or ""
    if not model and WEIGHTS.fullmatch(name):
        return System(label or name, "hear_axlstm", name)
    stem = re.sub(r"\.(safetensors|pth|pt|ckpt)$", "", Path(model).name)
    said = not stem or stem.lower().startswith(name)
    default = (stem or name) if said else f"{name}-{stem}"
    return System(label or re.sub(r"[^\w.+-]+", "-", default), _module(name, model), model)


def _module(name: str, model: str) -> str:
    """The import name of a system of the catalog, or of any other module."""
    if (card := CATALOG.get(name)) is None:
        return name
    if card.checkpoint and not model:
        raise SystemSpecError(
            f"system {name!r} needs weights: write {name}@{card.checkpoint} with their path "
            f"(`hearbench systems {name}` says where they are published)"
        )
    return f"hearbench.systems.{name}"


def fingerprints(systems: Sequence[System]) -> list[Fingerprint]:
    """The fingerprint of every system, each from a fresh process.

    A system's imports must not change the digest of the next one.

    Raises:
        SystemSpecError: as `fingerprint` does; for a module that does not exist, before any system
            is loaded.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # the console script does not add it; worker processes copy the path
    for system in systems:
        if find_spec(system.module.partition(".")[0]) is None:
            raise SystemSpecError(
                f"system {system.label!r}: there is no module {system.module!r}: use one of "
                f"{', '.join(DEFAULTS)}, a name of `hearbench systems` with its checkpoint, or a "
                "HEAR module that is installed or in the current folder"
            )
    found = []
    for system in systems:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            try:
                found.append(process.submit(fingerprint, system).result())
            except BrokenProcessPool as error:
                raise SystemSpecError(
                    f"system {system.label!r}: the process that loaded it died, perhaps for "
                    "lack of memory: load it by hand, in Python, to see why"
                ) from error
    return found


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
        model = module.load_model(*([system.model] if system.model else []))
    except (Exception, SystemExit) as error:
        raise SystemSpecError(
            f"system {system.label!r}: {system.module}.load_model({system.model!r}) failed: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(getattr(model, "sample_rate", None), int):
        raise SystemSpecError(f"{system.module}: the model's sample_rate must be an int (HEAR API)")
    return module, model


def fingerprint(system: System) -> Fingerprint:
    """Load `system` and compute its fingerprint.

    The digest covers the module's name, version and source files as far as loading has
    imported them, the model's state (a torch module's `state_dict`) and settings (its `config`, if
    that is a dataclass), and the file that it was loaded from, or all files of the folder.

    Raises:
        SystemSpecError: as `load_system` does.
    """
    module, model = load_system(system)
    version = str(getattr(module, "__version__", ""))
    total = hashlib.sha256(json.dumps([system.module, system.model, version]).encode())
    for file in _sources(module):
        total.update(file.read_bytes())
    parameters = 0
    if isinstance(model, torch.nn.Module):
        total.update(_state_digest(model))
        parameters = sum(p.numel() for p in model.parameters())
    if is_dataclass(config := getattr(model, "config", None)):
        total.update(repr(config).encode())
    for file in _files(Path(system.model)) if system.model else []:
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return Fingerprint(total.hexdigest()[:12], model.sample_rate, parameters, version)


def _sources(module: ModuleType) -> list[Path]:
    """The imported source files of a module's package.

    This file and the catalog describe systems and compute nothing.
    """
    package = module.__name__ if hasattr(module, "__path__") else module.__name__.rpartition(".")[0]
    files = {module.__file__}
    for name, other in list(sys.modules.items()):
        if name in (__name__, CATALOG_MODULE):
            continue
        if package and (name == package or name.startswith(package + ".")):
            files.add(getattr(other, "__file__", None))
    return sorted(Path(file) for file in files if file and file.endswith(".py"))


def _files(path: Path) -> list[Path]:
    return sorted(p for p in (path, *path.rglob("*")) if p.is_file())


def _state_digest(model: torch.nn.Module) -> bytes:
    total = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        total.update(name.encode())
        if isinstance(value, torch.Tensor):
            total.update(str((value.dtype, tuple(value.shape))).encode())
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            total.update(raw.numpy().tobytes())
        else:
            total.update(repr(value).encode())
    return total.digest()
