"""The log of a run: one JSON object a line, kept consistent across resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class JsonLines:
    """Append-only log.jsonl; each line carries the step it describes.

    Args:
        path: the file, made if it is not there.
        step: step that the run starts from. Lines of later steps, written before an interruption
            that lost them, are dropped: they are about to be written again.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [line for line in read_log(path) if line["step"] <= step]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        partial.replace(path)

    def read(self) -> list[dict[str, Any]]:
        """All lines so far."""
        return read_log(self.path)

    def write(self, **values: Any) -> None:
        """Append one line."""
        with open(self.path, "a") as file:
            file.write(json.dumps(values) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; none if the file is missing. A line cut off by a crash is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines
