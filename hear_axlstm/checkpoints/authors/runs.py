"""Choice of a checkpoint among the files of the authors' runs.

A run is a folder ``NAME_rN`` with ``checkpoints/checkpoint-EPOCH.pth`` inside; N counts its
repetitions. It may be nested deeper, beside other files, or be a zip of that name. Checkpoints
with other names are used only where no file has that one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from hear_axlstm.checkpoints.authors.published import Published

CHECKPOINT = re.compile(r"checkpoint-(\d+)\.pth")
SUFFIXES = (".pth", ".pt", ".ckpt", ".tar")
OTHER = re.compile(r"(?:checkpoint|ckpt|model|weights|epoch)", re.IGNORECASE)
NUMBER = re.compile(r"epoch\D{0,2}(\d+)|(\d+)")
REPETITION = re.compile(r"_r(\d+)$")
ARCHIVE = ".zip"
NAMED_FILES = 8  # files that an error lists


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


def run_in(path: str, weights: Published) -> str | None:
    """The part of a path that names a run of these weights, or None."""
    prefix = weights.prefix.lower()
    parts = PurePosixPath(path).parts[::-1]
    return next((part for part in parts if part.lower().startswith(prefix)), None)


def not_found(paths: Iterable[str], weights: Published, place: str) -> FileNotFoundError:
    """The error for files without a run of these weights; it lists them, checkpoints first."""
    kinds = (*SUFFIXES, ARCHIVE)
    found = sorted(paths, key=lambda path: (not path.lower().endswith(kinds), path))
    listed = ", ".join(sorted(found[:NAMED_FILES])) or "no files"
    return FileNotFoundError(
        f"{place} contains no checkpoint of a run {weights.prefix}*; it lists "
        f"{listed}{' ...' if len(found) > NAMED_FILES else ''}"
    )


def newest(paths: Iterable[str]) -> str | None:
    """The checkpoint of the highest epoch among files of any run, or None."""
    ranked = [(rank, path) for path in paths if (rank := _age(path)) is not None]
    return min(ranked)[1] if ranked else None


def newest_in_folder(folder: Path) -> Path | None:
    """The newest checkpoint in the folder of a run, or in its folder of checkpoints, or None."""
    for place in (folder / "checkpoints", folder):
        paths = [p.as_posix() for p in place.glob("*") if CHECKPOINT.fullmatch(p.name)]
        if found := newest(paths):
            return Path(found)
    return None


def _age(path: str) -> tuple[int, int] | None:
    """Sort key of a checkpoint, the newest of the usual name first; None for other files."""
    name = PurePosixPath(path).name
    if match := CHECKPOINT.fullmatch(name):
        return 0, -int(match[1])
    if not name.lower().endswith(SUFFIXES) or not OTHER.match(name):
        return None
    number = NUMBER.search(PurePosixPath(name).stem.lower())
    return (1, -int(number[1] or number[2])) if number else (3, 0)


def _rank(path: str, weights: Published) -> tuple | None:
    """Sort key of a file that may contain the weights, the best one first; None for others."""
    if (run := run_in(path, weights)) is None:
        return None
    age = (2, 0) if path.lower().endswith(ARCHIVE) else _age(path)
    if age is None and path.endswith(run) and path.lower().endswith(SUFFIXES):
        age = (1, 0)  # a file with the name of the run
    if age is None:
        return None
    parts = PurePosixPath(path).parts
    inner = parts[len(parts) - parts[::-1].index(run) : -1]
    is_deeper = [part.lower() for part in inner] not in ([], ["checkpoints"])
    run = re.split(r"[-.]", run.lower())[0]  # without what a browser adds to the name of a zip
    repetition = REPETITION.search(run)
    number = int(repetition[1]) if repetition else math.inf
    return number, run != weights.run.lower(), is_deeper, *age, len(path)
