"""Imports go downwards through the folders, in the order in which audio becomes embeddings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (  # a room may import itself and those before it
    ("ahead", "config", "files", "options", "progress", "wording"),
    ("audio",),
    ("ops",),
    ("models",),
    ("data", "training"),
    ("embed",),
    ("checkpoints",),
    ("",),  # hear_axlstm/__init__.py
    ("mean_std", "pretrain", "finetune"),
    ("integrations", "cli"),
)
LEVELS = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}


def imports(file: Path, package: str) -> Iterator[str]:
    """The modules of the package that a file imports, also for type checking or in a function."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] == package:
                yield name


def modules(root: Path) -> dict[str, Path]:
    """All modules of a package by their dotted names."""
    found = {}
    for file in root.rglob("*.py"):
        parts = file.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def graph(root: Path) -> dict[str, set[str]]:
    """Which modules of a package each of its modules imports."""
    known = modules(root)
    edges: dict[str, set[str]] = {name: set() for name in known}
    for name, file in known.items():
        for target in imports(file, root.name):
            module = target if target in known else target.rpartition(".")[0]
            if module != name and module in known:
                edges[name].add(module)
    return edges


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_room_has_its_level() -> None:
    rooms = {room(name) for name in modules(ROOT / "hear_axlstm")} - {"__main__"}
    assert rooms <= set(LEVELS)


def test_imports_go_downwards() -> None:
    upward = [
        f"{name} imports {target}"
        for name, targets in graph(ROOT / "hear_axlstm").items()
        for target in targets
        if name != "hear_axlstm.__main__"
        and room(name) != room(target)
        and LEVELS[room(target)] >= LEVELS[room(name)]
    ]
    assert not upward


@pytest.mark.parametrize("package", ["hear_axlstm", "eval/hearbench"])
def test_no_module_is_part_of_a_circle(package: str) -> None:
    try:
        TopologicalSorter(graph(ROOT / package)).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


def test_hearbench_never_imports_the_model() -> None:
    found = [
        str(file)
        for file in (ROOT / "eval" / "hearbench").rglob("*.py")
        if list(imports(file, "hear_axlstm"))
    ]
    assert not found


@cache
def defined(file: Path) -> set[str]:
    """The names that a module defines itself, at any depth."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    named = (ast.ClassDef, ast.FunctionDef)
    return {node.name for node in nodes if isinstance(node, named)} | {
        node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


@pytest.mark.parametrize("package", ["hear_axlstm", "eval/hearbench"])
def test_names_are_imported_from_where_they_are_defined(package: str) -> None:
    root = ROOT / package
    known = modules(root)
    elsewhere = []
    for file in known.values():
        for target in imports(file, root.name):
            module, _, name = target.rpartition(".")
            is_special = name.startswith("__") or known.get(module, file).name == "__init__.py"
            if target in known or module not in known or is_special:
                continue  # a module, or the public names of a package
            if name not in defined(known[module]):
                elsewhere.append(f"{file}: {target}")
    assert not elsewhere
