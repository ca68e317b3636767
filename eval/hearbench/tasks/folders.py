"""HEAR task folders as data: what a task asks for, and its audio `<rate>/<split>/<clip>`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import joblib
from tqdm import tqdm

from hearbench.tasks.description import TaskError, describe, read_json, read_metadata
from hearbench.tasks.official import OFFICIAL


@dataclass(frozen=True)
class Task:
    """One HEAR task, as its folder describes it."""

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
    """Sample rate in Hz -> names a state of labels and audio, see `with_audio`."""

    def slug(self, sample_rate: int) -> str:
        """The name of this state of the task in file paths; another state has another."""
        return f"{self.path.name}-{self.digests[sample_rate]}"


def find_tasks(folder: Path, names: Sequence[str] = ()) -> tuple[Task, ...]:
    """Read the tasks under `folder`, all of them or those called `names`.

    A name is a folder's name or a `task_name`.

    Raises:
        TaskError: if there are none, a name is unknown or means several, or a task is broken.
    """
    found = {path.name: path for path in task_folders(folder)}
    if not found:
        raise TaskError(f"{folder} holds no HEAR task (no */task_metadata.json): check --tasks-dir")
    paths = [_find(name, found) for name in names] if names else list(found.values())
    return tuple(read_task(path) for path in dict.fromkeys(paths))


def task_folders(folder: Path) -> list[Path]:
    """The folders in `folder` that are tasks, or look like one in pieces.

    Raises:
        TaskError: if there is no such folder.
    """
    if not folder.is_dir():
        raise TaskError(f"no folder {folder}: give the folder that holds the tasks")
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and _looks_like_task(path)]


def read_task(path: Path) -> Task:
    """Read and check one task folder, all but its audio.

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
        classes=found.classes,
        splits=tuple(found.labels),
    )


def with_audio(task: Task, sample_rates: Collection[int]) -> Task:
    """The task with the digests of its labels and audio at these sample rates, in Hz.

    Raises:
        TaskError: as `check_audio` does.
    """
    descriptions = [path for path in task.path.iterdir() if path.suffix in (".json", ".csv")]
    digests = {}
    for rate in sorted(sample_rates):
        check_audio(task, rate)
        files = sorted(descriptions) + clip_paths(task, rate)
        # threads, because hashing lets go of Python's lock
        with ThreadPoolExecutor(joblib.cpu_count()) as pool:
            contents = tqdm(
                pool.map(_file_digest, files),
                desc=f"reading {task.path.name}",
                total=len(files),
                unit="file",
                leave=False,
            )
            total = hashlib.sha256()
            for file, digest in zip(files, contents, strict=True):
                total.update(file.relative_to(task.path).as_posix().encode() + digest)
        digests[rate] = total.hexdigest()[:8]
    return replace(task, digests=digests)


def check_audio(task: Task, sample_rate: int) -> None:
    """Make sure that every clip of `task` is there at `sample_rate` Hz.

    Raises:
        TaskError: naming the first missing folder or clip.
    """
    for split in task.splits:
        folder = task.path / str(sample_rate) / split
        if not folder.is_dir():
            rates = sorted(p.name for p in task.path.iterdir() if is_sample_rate(p.name))
            raise TaskError(
                f"{folder} is missing: the model wants {sample_rate} Hz and the task has "
                f"{', '.join(rates) or 'no audio'}; resample the task or pick another model"
            )
        with os.scandir(folder) as entries:
            present = {entry.name for entry in entries if entry.is_file()}
        if missing := sorted(read_json(task.path / f"{split}.json").keys() - present):
            raise TaskError(f"{folder} lacks {len(missing)} clip(s), the first is {missing[0]}")


def clip_paths(task: Task, sample_rate: int) -> list[Path]:
    """The audio files that the task's splits name, in their order."""
    return [
        task.path / str(sample_rate) / split / clip
        for split in task.splits
        for clip in read_json(task.path / f"{split}.json")
    ]


def is_sample_rate(name: str) -> bool:
    """Whether a folder of that name holds a task's audio at a sample rate."""
    return name.isascii() and name.isdecimal()


def _looks_like_task(path: Path) -> bool:
    return (
        path.name in OFFICIAL
        or (path / "task_metadata.json").exists()
        or any(is_sample_rate(part.name) and part.is_dir() for part in path.iterdir())
    )


def _find(name: str, found: Mapping[str, Path]) -> Path:
    """The folder called `name`, or else the one whose metadata does."""
    if name in found:
        return found[name]
    paths = [path for path in found.values() if read_metadata(path)["task_name"] == name]
    if len(paths) > 1:
        folders = ", ".join(path.name for path in paths)
        raise TaskError(f"task {name!r} may be any of {folders}: give the folder's name")
    if not paths:
        raise TaskError(f"there is no task {name!r}: there are {', '.join(found)}")
    return paths[0]


def _file_digest(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()
