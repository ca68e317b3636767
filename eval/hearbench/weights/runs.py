"""Choice of the files of a run: its newest checkpoint and its settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from hearbench.errors import WeightsError
from hearbench.weights.table import Weights

SHOWN = 8  # names of a folder that an error lists
IN_RUN = re.compile(
    r"(?:config\.json|(?:checkpoints/)?checkpoint[-_](\d+)(?:\.pth|/checkpoint)?)", re.IGNORECASE
)
"""Files of a run to use, as paths below its folder."""


def choose(listed: Mapping[str, str], weights: Weights) -> tuple[str, dict[str, str]]:
    """Choose a run among files, and the files of it to use: newest checkpoint and settings.

    Args:
        listed: path -> anything, e.g. a file id.
        weights: their `file` begins the run's name.

    Raises:
        WeightsError: if no run fits; the message lists the files.
    """
    runs: dict[str, dict[str, tuple[int | None, str]]] = {}
    for path, value in listed.items():
        parts = PurePosixPath(path).parts
        for depth, part in enumerate(parts[:-1]):
            inner = "/".join(parts[depth + 1 :])
            if weights.is_called(part) and (match := IN_RUN.fullmatch(inner)):
                step = None if match[1] is None else int(match[1])
                runs.setdefault(part, {})[inner] = (step, value)
    whole = {
        run: files for run, files in runs.items() if any(s is not None for s, _ in files.values())
    }
    if not whole:
        raise WeightsError(
            f"there is no checkpoint of a run {weights.file}* among {listing(listed)}"
        )
    run = min(whole, key=_natural)
    newest = max(step for step, _ in whole[run].values() if step is not None)
    return run, {n: i for n, (step, i) in whole[run].items() if step in (None, newest)}


def listing(names: Mapping[str, object]) -> str:
    """Some of the names, for an error message."""
    more = ", ..." if len(names) > SHOWN else ""
    return ", ".join(sorted(names)[:SHOWN]) + more if names else "no files"


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts r2 before r10."""
    return [(int(n or 0), text) for text, n in re.findall(r"(\D*)(\d*)", name)]
