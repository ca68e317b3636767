"""Write the generated tasks and corpus to disk, atomically."""

from __future__ import annotations

import csv
import json
import shutil
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from filelock import FileLock
from joblib import Parallel, delayed

from hearbench.progress import Progress
from hearbench.synthetic.sounds import SAMPLE_RATE, Rng, Wave
from hearbench.synthetic.tasks import SPLITS, TASKS, MiniatureTask, Split, corpus_clip
from hearbench.tasks.description import TaskError

VERSION = "v3"  # raise it when the audio changes
METADATA = "task_metadata.json"
STAMP = ".miniature-complete"
NOT_OURS = "contains files that this version did not generate: choose another folder, or remove it"

Clip = tuple[Path, Callable[[Rng], Wave]]
"""A file's path below the folder, and what renders it."""


def write_tasks(out: Path, names: Collection[str] = ()) -> Path:
    """Generate the miniature tasks, or those called `names`, unless they exist already.

    Args:
        out: folder for the task folders, in the on-disk format of HEAR 2021.
        names: names of the tasks; all ten if empty.

    Returns:
        `out`.

    Raises:
        TaskError: if a name is unknown, or a folder contains files that this version did not write.
    """
    chosen = chosen_tasks(names)
    if not _missing_tasks(out, chosen):
        return out
    with _draft(out) as draft:
        missing = _missing_tasks(out, chosen)  # another process may have made some
        for task in missing:
            _write_annotations(task, draft / task.name)
        _render(draft, [clip for task in missing for clip in _task_clips(task)], "tasks")
        for task in missing:
            _publish(draft / task.name, out / task.name)
    return out


def chosen_tasks(names: Collection[str] = ()) -> list[MiniatureTask]:
    """The miniature tasks called `names`; all ten if empty.

    Raises:
        TaskError: if a name is unknown.
    """
    known = [task.name for task in TASKS]
    if unknown := [name for name in names if name not in known]:
        raise TaskError(f"unknown task {unknown[0]!r}: choose from {', '.join(known)}")
    return [task for task in TASKS if not names or task.name in names]


def write_corpus(out: Path, clips: int = 400) -> Path:
    """Generate an unlabeled corpus of `clips` WAV files of 2 to 10 s, unless it exists already.

    Returns:
        `out`.

    Raises:
        TaskError: if `clips` is not positive, or `out` contains other files, such as a corpus of
            another size.
    """
    if clips < 1:
        raise TaskError(f"clips={clips}: at least 1 is needed")
    if out.resolve() == Path.cwd():
        raise TaskError(f"{out} is the current folder, which would be replaced: choose another")
    stamp = f"corpus of {clips} clips, {VERSION}\n"
    if _is_complete(out, STAMP, stamp):
        return out
    with _draft(out) as draft:
        if _is_complete(out, STAMP, stamp):  # made by another process
            return out
        _render(draft, [(Path(f"clip-{i:05d}.wav"), corpus_clip) for i in range(clips)], "corpus")
        (draft / STAMP).write_text(stamp, "utf-8")
        _publish(draft, out)
    return out


def _missing_tasks(out: Path, chosen: Sequence[MiniatureTask]) -> list[MiniatureTask]:
    if any(not path.is_dir() for path in _content(out)):
        raise TaskError(f"{out} {NOT_OURS}")
    return [task for task in chosen if not _is_complete(out / task.name, METADATA, _metadata(task))]


def _is_complete(folder: Path, file: str, content: str) -> bool:
    """Whether this version wrote the folder, which appears only when it is complete."""
    if not _content(folder):
        return False
    path = folder / file
    if not path.is_file() or path.read_text("utf-8", errors="replace") != content:
        raise TaskError(f"{folder} {NOT_OURS}")
    return True


def _content(folder: Path) -> list[Path]:
    """What is in a folder, without hidden files, such as those that macOS leaves anywhere."""
    if folder.is_file():
        raise TaskError(f"{folder} is a file: choose a folder")
    paths = folder.iterdir() if folder.is_dir() else ()
    return [path for path in paths if path.name == STAMP or not path.name.startswith(".")]


def _publish(draft: Path, out: Path) -> None:
    """Move a complete folder to its place, where hidden files stay; no others are there."""
    out = out.resolve()  # a link stays
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        for path in sorted(draft.iterdir(), key=lambda path: path.name in (METADATA, STAMP)):
            path.replace(out / path.name)  # last, the file by which a complete folder is known
    else:
        out.rmdir()  # Windows does not replace empty folders
        draft.replace(out)


@contextmanager
def _draft(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`, removed at the end; one process at a time gets it."""
    out = out.resolve()  # "." has no name
    draft = out.with_name(f".{out.name}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_name(f".{out.name}.lock")):
        shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
        draft.mkdir()
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _render(folder: Path, clips: Sequence[Clip], content: str) -> None:
    done = Parallel(n_jobs=-1, return_as="generator_unordered")(
        delayed(_write_clip)(folder, *clip) for clip in clips
    )
    for _ in Progress(done, total=len(clips), desc=f"generating the {content}", unit="clip"):
        pass


def _task_clips(task: MiniatureTask) -> list[Clip]:
    return [
        (Path(task.name, str(SAMPLE_RATE), split, filename), partial(task.clip, labels))
        for split in SPLITS
        for filename, labels in _split(task, split).items()
    ]


def _split(task: MiniatureTask, split: Split) -> dict[str, tuple[str, ...]]:
    """File names and their labels; a name never repeats in another split."""
    return {f"{split}-{index:04d}.wav": labels for index, labels in enumerate(task.labels(split))}


def _write_clip(folder: Path, path: Path, render: Callable[[Rng], Wave]) -> None:
    """Render one 16-bit WAV; its path seeds it, so neither order nor number of workers matters."""
    rng = np.random.default_rng(zlib.crc32(path.as_posix().encode()))
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / path, render(rng), SAMPLE_RATE, subtype="PCM_16")


def _write_annotations(task: MiniatureTask, folder: Path) -> None:
    """Write the files that heareval reads besides audio: metadata, vocabulary, labels."""
    folder.mkdir(parents=True)
    (folder / METADATA).write_text(_metadata(task), "utf-8")
    with (folder / "labelvocabulary.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["idx", "label"])
        rows.writerows(enumerate(task.classes))
    for split in SPLITS:
        (folder / f"{split}.json").write_text(json.dumps(_split(task, split), indent=1), "utf-8")


def _metadata(task: MiniatureTask) -> str:
    metadata = {
        "task_name": task.name,
        "version": VERSION,
        "description": f"Generated audio: a miniature of the kind of {task.mirrors}, not that task",
        "embedding_type": "scene",
        "prediction_type": task.prediction_type,
        "split_mode": "trainvaltest",
        "sample_duration": task.seconds,
        "evaluation": task.metrics,
        "default_mode": "miniature",
        "mode": "miniature",
        "splits": SPLITS,
        "max_task_duration_by_split": dict.fromkeys(SPLITS),
    }
    return json.dumps(metadata, indent=1)
