"""Files that appear only once they are complete."""

from __future__ import annotations

from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(text, "utf-8")
    draft.replace(path)
