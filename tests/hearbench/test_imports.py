"""hearbench evaluates any module behind the HEAR API: it knows none in particular."""

from __future__ import annotations

import ast
from pathlib import Path

import hearbench

PACKAGE = Path(hearbench.__file__).parent
WITHOUT = """
import sys
for name in ("hear_axlstm", "heareval", "pytorch_lightning", "tensorflow"):
    sys.modules[name] = None
from hearbench.cli import main
sys.argv = ["hearbench", *sys.argv[1:]]
sys.exit(main())
"""


def imported(file: Path) -> set[str]:
    """Top-level packages that a file imports, also for type checking or in a function."""
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return {name.partition(".")[0] for name in names}


def test_hear_axlstm_is_never_imported() -> None:
    files = list(PACKAGE.rglob("*.py"))
    assert len(files) > 30
    assert [str(file) for file in files if "hear_axlstm" in imported(file)] == []
