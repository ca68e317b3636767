"""Descriptions of HEAR task folders; `hearbench.tasks.audio` has their audio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hearbench.tasks.description import TaskError, describe, read_metadata
from hearbench.tasks.official import OFFICIAL

Labels = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Task:
    """A HEAR task, read from its folder and checked once."""

    path: Path
    """The task's folder."""
    name: str
    """`task_name` of the metadata, e.g. `esc50`."""
    mode: str
    """The amount of data, e.g. `full` or `5h`."""
    metric: str
    """The primary metric: the first one of `evaluation`."""
    folds: int
    """Folds whose test scores are averaged; 1 for a train/valid/test task."""
    clips: int
    """Clips in all splits together."""
    classes: int
    """Entries of the label vocabulary."""
    splits: tuple[str, ...]
    """Names of the splits."""
    digests: Mapping[int, str] = field(default_factory=dict, hash=False)
    """Sample rate in Hz -> digest of labels and audio, see `with_audio`."""
    contents: Mapping[str, bytes] = field(default_factory=dict, compare=False, repr=False)
    """File in the folder -> digest of its content; empty for a task read from a plan."""
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The content of task_metadata.json; empty for a task read from a plan."""
    labels: Labels = field(default_factory=dict, compare=False, repr=False)
    """Split -> clip -> its labels, or events; empty for a task read from a plan."""

    def slug(self, sample_rate: int) -> str:
        """The task's name in file paths, with a digest of its labels and audio."""
        return f"{self.path.name}-{self.digests[sample_rate]}"


def find_tasks(folder: Path, names: Sequence[str] = ()) -> tuple[Task, ...]:
    """Read the tasks under `folder`, all of them or those called `names`.

    A name is a folder's name or a `task_name`.

    Raises:
        TaskError: if there are none, a name is unknown or ambiguous, or a task is broken.
    """
    found = {path.name: path for path in task_folders(folder)}
    if not found:
        raise TaskError(
            f"{folder} contains no HEAR task (no */task_metadata.json): check --tasks-dir"
        )
    paths = [_find(name, found) for name in names] if names else list(found.values())
    return tuple(read_task(path) for path in dict.fromkeys(paths))


def task_folders(folder: Path) -> list[Path]:
    """The folders in `folder` that are tasks, or incomplete tasks.

    Raises:
        TaskError: if it is not a directory.
    """
    if not folder.is_dir():
        raise TaskError(f"{folder} is not a directory: name the folder that contains the tasks")
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and _looks_like_task(path)]


def read_task(path: Path) -> Task:
    """Read and check a task folder without its audio.

    Raises:
        TaskError: if something that heareval needs is missing or contradicts itself.
    """
    found = describe(path)
    metadata = found.metadata
    return Task(
        path=path.absolute(),  # a link keeps its name
        name=str(metadata["task_name"]),
        mode=str(metadata.get("mode", "")),
        metric=metadata["evaluation"][0],
        folds=1 if metadata["split_mode"] == "trainvaltest" else len(found.labels),
        clips=sum(map(len, found.labels.values())),
        classes=len(found.vocabulary),
        splits=tuple(found.labels),
        metadata=metadata,
        labels=found.labels,
    )


def is_sample_rate(name: str) -> bool:
    """Whether a folder of this name contains a task's audio at a sample rate."""
    return name.isascii() and name.isdecimal()


def _looks_like_task(path: Path) -> bool:
    return (
        path.name in OFFICIAL
        or (path / "task_metadata.json").exists()
        or any(is_sample_rate(part.name) and part.is_dir() for part in path.iterdir())
    )


def _find(name: str, found: Mapping[str, Path]) -> Path:
    """The folder called `name`, or else the one with this `task_name`."""
    if name in found:
        return found[name]
    paths = [path for path in found.values() if read_metadata(path)["task_name"] == name]
    if len(paths) > 1:
        folders = ", ".join(path.name for path in paths)
        raise TaskError(f"task {name!r} may be any of {folders}: use the folder's name")
    if not paths:
        raise TaskError(f"unknown task {name!r}: choose from {', '.join(found)}")
    return paths[0]
