"""Choice of a checkpoint among the files of the authors' runs.

A run is a folder ``NAME_rN`` with ``checkpoints/checkpoint-EPOCH.pth`` inside; N counts its
repetitions. It may lie deeper, beside other files, or in a zip of that name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from hear_axlstm.checkpoints.published import Published

CHECKPOINT = re.compile(r"checkpoint-(\d+)\.pth")
REPETITION = re.compile(r"_r(\d+)$")
ARCHIVE = ".zip"


def choose(paths: Iterable[str], weights: Published) -> str | None:
    """The newest checkpoint of the first repetition of a run, or else the zip of the run.

    Args:
        paths: files below a common folder, parts separated by ``/``.
        weights: the wanted run.

    Returns:
        One of `paths`, or None if no run is among them.
    """
    ranked = [(rank, path) for path in paths if (rank := _rank(path, weights)) is not None]
    return min(ranked)[1] if ranked else None


def newest(paths: Iterable[str]) -> str | None:
    """The checkpoint of the highest epoch among files of any run, or None."""
    epochs = [(epoch, path) for path in paths if (epoch := _epoch(path)) is not None]
    return max(epochs)[1] if epochs else None


def newest_in_folder(folder: Path) -> Path | None:
    """The newest checkpoint in the folder of a run, or None."""
    found = newest(p.as_posix() for p in (folder / "checkpoints").glob("checkpoint-*.pth"))
    return Path(found) if found else None


def _epoch(path: str) -> int | None:
    match = CHECKPOINT.fullmatch(PurePosixPath(path).name)
    return int(match[1]) if match else None


def _rank(path: str, weights: Published) -> tuple | None:
    """Sort key of a file that may contain the weights, the best one first; None for others."""
    run = next((p for p in PurePosixPath(path).parts if p.startswith(weights.prefix)), None)
    epoch = _epoch(path)
    if run is None or (epoch is None and not path.endswith(ARCHIVE)):
        return None
    run = run.removesuffix(ARCHIVE)
    repetition = REPETITION.search(run)
    number = int(repetition[1]) if repetition else math.inf
    return number, run != weights.run, epoch is None, -(epoch or 0), len(path)
