"""Fingerprints of systems: digests of everything that an embedding depends on."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, is_dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from hearbench.digests import digest_of, update_from
from hearbench.systems import catalog, specs
from hearbench.systems.specs import DEFAULTS, WEIGHTS, System, SystemSpecError, load_system

COMPUTE_NOTHING = (str(__package__), __name__, catalog.__name__, specs.__name__)
"""Modules of hearbench.systems that only describe systems."""
PROGRAMS = ("__main__", "__mp_main__")
INSTALLED = {"site-packages", "dist-packages"}
COMPILED = {".so", ".pyd", ".dll", ".dylib"}


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
    sources: tuple[Path, ...] = field(default=(), compare=False, repr=False)
    """The files of code that the digest covers; empty for a system read from a plan."""


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
                    f"system {system.label!r}: the process that loaded it died: its own error is "
                    "above; if there is none, perhaps out of memory: load it in Python to see why"
                ) from error
    return found


def fingerprint(system: System) -> Fingerprint:
    """Load `system` and compute its fingerprint.

    The digest covers the module's name and version, the source files and compiled modules of its
    package as far as loading has imported them (of a module outside of packages, those beside it),
    the package's shared libraries, all these of a HEAR module that it wraps, the model's state (a
    torch module's `state_dict`) and settings (its `config`, if that is a dataclass), and the file
    that it was loaded from, wherever that is, or all files of the folder.

    Raises:
        SystemSpecError: as `load_system` does.
    """
    module, model = load_system(system)
    sources = dict.fromkeys(f for part in hear_modules(module, model) for f in _sources(part))
    return fingerprint_of(system, module, model, tuple(sources))


def fingerprint_of(
    system: System, module: ModuleType, model: Any, sources: tuple[Path, ...]
) -> Fingerprint:
    """The fingerprint of a loaded system with the given files of code, see `fingerprint`."""
    digest = _digest(system, module, model, sources)
    is_torch = isinstance(model, torch.nn.Module)
    parameters = sum(p.numel() for p in model.parameters()) if is_torch else 0
    return Fingerprint(digest, model.sample_rate, parameters, _version(module), sources)


def hear_modules(module: ModuleType, model: Any) -> list[ModuleType]:
    """A system's module, and the HEAR module that its model wraps (as in `msm_mae`), if any."""
    inner = getattr(model, "module", None)
    return [module, inner] if isinstance(inner, ModuleType) else [module]


def check_unchanged(system: System, module: ModuleType, model: Any, before: Fingerprint) -> None:
    """Check that a system that was loaded again is the one with the fingerprint `before`.

    The files of code compared are those of `before`: this process may have imported more of them.

    Raises:
        SystemSpecError: if its weights, settings, code or files of weights differ.
    """
    try:
        if _digest(system, module, model, before.sources) == before.digest:
            return
    except FileNotFoundError:
        pass  # deleted since
    if _state(model) != _state(load_system(system)[1]):
        raise SystemSpecError(
            f"system {system.label!r}: {system.module}.load_model returns other weights or "
            "settings each time it is called: set a seed in it"
        )
    _, path = _split(system, module, model)
    instead = f", or name a file instead of the folder {path}" if path and path.is_dir() else ""
    raise SystemSpecError(
        f"system {system.label!r}: its weights or code have changed since the evaluation began: "
        f"run the same command again{instead}"
    )


def _digest(system: System, module: ModuleType, model: Any, sources: Sequence[Path]) -> str:
    name, path = _split(system, module, model)
    total = hashlib.sha256(json.dumps([system.module, name, _version(module)]).encode())
    for file in sources:
        with file.open("rb") as content:
            update_from(total, content)
    total.update(_state(model))
    for file in _files(path) if path else []:
        total.update(digest_of(file))
    return total.hexdigest()[:12]


def _split(system: System, module: ModuleType, model: Any) -> tuple[str, Path | None]:
    """The name in a system's checkpoint, of weights or of a module that it wraps, and the path.

    A path may be written in several ways, so it is no part of the name.
    """
    inner = hear_modules(module, model)[-1]
    wrapped, at, checkpoint = system.checkpoint.partition("@")
    if sys.modules.get(wrapped) is not inner:
        wrapped, at, checkpoint = "", "", system.checkpoint
    path = Path(checkpoint)
    # hear_axlstm prefers its own weights to a folder of that name
    is_own = inner.__name__.partition(".")[0] == "hear_axlstm"
    is_name = is_own and WEIGHTS.fullmatch(checkpoint) and path.is_dir()
    if not checkpoint or is_name or not path.exists():
        return system.checkpoint, None
    return wrapped + at, path


def _version(module: ModuleType) -> str:
    return str(getattr(module, "__version__", ""))


def _sources(module: ModuleType) -> tuple[Path, ...]:
    """The files of code of a module's package: sources, compiled modules and shared libraries.

    Sources are those imported, except those that compute nothing; a shared library may be loaded
    without an import. A module outside of packages may import any others beside it: those count as
    its package.
    """
    is_ours = module.__name__.startswith(f"{__package__}.")
    package = str(__package__) if is_ours else module.__name__.partition(".")[0]
    is_alone = module.__name__ == package and not hasattr(module, "__path__")
    beside = Path(module.__file__).parent if is_alone and module.__file__ else None
    files = {module.__file__}
    for name, other in list(sys.modules.items()):
        if name in COMPUTE_NOTHING or not isinstance(other, ModuleType):
            continue
        file = vars(other).get("__file__")  # an attribute of a lazy module may import it
        is_beside = file and beside in Path(file).parents and not _is_elsewhere(name, Path(file))
        if name == package or name.startswith(package + ".") or is_beside:
            files.add(file)
    imported = {Path(file) for file in files if file}
    folders = getattr(sys.modules.get(package), "__path__", ())
    of_package = {file for folder in folders for file in _files(Path(folder))}
    compiled = {file for file in imported | of_package if file.suffix in COMPILED}
    return tuple(sorted(compiled | {file for file in imported if file.suffix == ".py"}))


def _is_elsewhere(name: str, file: Path) -> bool:
    """Whether a module is the program that runs, hearbench, installed, or Python's own."""
    top = name.partition(".")[0]
    is_installed = not INSTALLED.isdisjoint(file.parts)
    return top in (*PROGRAMS, __name__.partition(".")[0], *sys.stdlib_module_names) or is_installed


def _files(path: Path) -> list[Path]:
    return sorted(p for p in (path, *path.rglob("*")) if p.is_file())


def _state(model: Any) -> bytes:
    """Digest of the weights, if it is a torch module, and the settings of a model."""
    weights = _state_digest(model) if isinstance(model, torch.nn.Module) else b""
    config = getattr(model, "config", None)
    return weights + (repr(config).encode() if is_dataclass(config) else b"")


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
