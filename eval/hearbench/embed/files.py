"""A task's embeddings on disk, in the files that heareval's own runner writes.

    <split>.embeddings.npy              float32 rows [N, D], without a header
    <split>.embedding-dimensions.json   [N, D]
    <split>.target-labels.pkl           the labels of each row
    <split>.filename-timestamps.json    event tasks: the clip and time in ms of each row
    task_metadata.json, labelvocabulary.csv, <split>.json    as in the task's folder
    profile.embeddings.json, .done.embeddings                written last

Rows of scene tasks are written to their final position directly. The position of an event task's
rows depends on the number of time steps of every clip, so they are first written to .<split>.rows
and .<split>.times. .journal lists the clips that are on disk, so that interrupted work resumes.

Shapes: N rows, D embedding size, B clips, T time steps.
"""

from __future__ import annotations

import glob
import json
import os
import pickle
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hearbench.embed.model import EmbeddingError
from hearbench.files import write_text
from hearbench.tasks.audio import Clip, check_unchanged
from hearbench.tasks.folders import Task

Rows = NDArray[Any]
EMBEDDED = ".done.embeddings"
JOURNAL = ".journal"
END_INCLUDED = 1e-4  # ms; an event lasts up to and including its end
COMMIT_EVERY = 10.0  # seconds of work that a power failure or `kill -9` may lose


def embedded(task: Task, folder: Path) -> Path | None:
    """Folder of the finished embeddings of `task` under `folder`; None if there are none."""
    done = next(folder.glob(f"*/{glob.escape(task.path.name)}/{EMBEDDED}"), None)
    return done.parent if done else None


def row_order(labels: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Map each split to its clips in the order of their rows.

    heareval shuffles the clips of all splits in turn with one generator.
    """
    generator = random.Random(0)
    order = {split: list(clips) for split, clips in labels.items()}
    for clips in order.values():
        generator.shuffle(clips)
    return order


class EmbeddingFiles:
    """Writer of a task's embeddings, clip by clip in any order; use it as a context manager.

    Args:
        folder: folder of this task's embeddings.
        task: the task, with its labels.
    """

    def __init__(self, folder: Path, task: Task) -> None:
        self.folder, self.task = folder, task
        self.is_event = task.metadata["embedding_type"] == "event"
        self.order = row_order(task.labels)
        self.index = {
            (split, name): row
            for split, names in self.order.items()
            for row, name in enumerate(names)
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.size = 0
        """Embedding size D; 0 until the first embedding is written."""
        self.places: dict[tuple[str, str], tuple[int, int]] = {}
        """(split, clip) -> first row and number of rows, on disk."""
        self._pending: dict[tuple[str, str], tuple[int, int]] = {}
        self._ends = dict.fromkeys(self.order, 0)  # number of rows in use, by split
        self._open: dict[Path, BinaryIO] = {}
        self._read_journal()
        self._committed = time.monotonic()

    def __enter__(self) -> EmbeddingFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if not isinstance(error, OSError):  # on a full disk it would fail again
                self._commit()
        finally:
            self._close()

    def has(self, clip: Clip) -> bool:
        """Whether the clip's embeddings are on disk."""
        return (clip.split, clip.name) in self.places

    def put(self, clips: Sequence[Clip], rows: Rows, times_BT: Rows | None) -> None:
        """Write embeddings [B, D], or [B, T, D] with their times [B, T] in ms.

        Raises:
            EmbeddingError: if D differs from that of earlier clips.
        """
        if not self.size:
            self._start(rows.shape[-1])
        if self.size != rows.shape[-1]:
            raise EmbeddingError(
                f"{clips[0].path} has an embedding of size {rows.shape[-1]}, and earlier clips of "
                f"size {self.size}: the HEAR API requires one size for clips of any length"
            )
        for number, clip in enumerate(clips):
            key = clip.split, clip.name
            if times_BT is None:
                first = self.index[key]
            else:
                first = self._ends[clip.split]
                self._write(self._times(clip.split), first * 8, times_BT[number].astype(np.float64))
            values = np.ascontiguousarray(np.atleast_2d(rows[number]), dtype=np.float32)
            self._write(self._rows(clip.split), first * self.size * 4, values)
            self._pending[key] = first, len(values)
            self._ends[clip.split] = first + len(values)
        if time.monotonic() - self._committed > COMMIT_EVERY:
            self._commit()

    def finish(self, profile: Mapping[str, Any]) -> None:
        """Write all other files and mark the task as done.

        Args:
            profile: the content of profile.embeddings.json.

        Raises:
            TaskError: if one of the task's descriptions has changed, see `check_unchanged`.
        """
        self._commit()
        labels = [f"{split}.json" for split in self.order]
        for name in ("task_metadata.json", "labelvocabulary.csv", *labels):
            check_unchanged(self.task, self.task.path / name)
            shutil.copyfile(self.task.path / name, self.folder / name)
        for split in self.order:
            self._finish_split(split)
        (self.folder / "profile.embeddings.json").write_text(json.dumps(profile, indent=4), "utf-8")
        (self.folder / EMBEDDED).touch()
        self._close()  # Windows can't delete open files
        for split in self.order if self.is_event else ():
            self._rows(split).unlink()
            self._times(split).unlink()
        (self.folder / JOURNAL).unlink()

    def _finish_split(self, split: str) -> None:
        clips = self.order[split]
        places = [self.places[split, name] for name in clips]
        dimensions = sum(steps for _, steps in places), self.size
        self._text(f"{split}.embedding-dimensions.json", json.dumps(dimensions))
        labels: list[Any] = [self.task.labels[split][name] for name in clips]
        if self.is_event:
            times = np.fromfile(self._times(split), np.float64)
            times_of = [times[first : first + steps] for first, steps in places]
            self._arrange(split, places)
            labels = _labels_at(labels, times_of)
            stamps = [
                (str(self.folder / split / name), stamp)
                for name, found in zip(clips, times_of, strict=True)
                for stamp in found.tolist()
            ]
            self._text(f"{split}.filename-timestamps.json", json.dumps(stamps, indent=4))
        with (self.folder / f"{split}.target-labels.pkl").open("wb") as file:
            pickle.dump(labels, file)

    def _arrange(self, split: str, places: Sequence[tuple[int, int]]) -> None:
        """Copy the rows of an event task from computation order to heareval's order."""
        shape = -1, self.size
        source = np.memmap(self._rows(split), np.float32, "r").reshape(shape)
        with (self.folder / f"{split}.embeddings.npy").open("wb") as file:
            for first, steps in places:
                file.write(source[first : first + steps].tobytes())
            file.flush()
            os.fsync(file.fileno())

    def _rows(self, split: str) -> Path:
        name = f".{split}.rows" if self.is_event else f"{split}.embeddings.npy"
        return self.folder / name

    def _times(self, split: str) -> Path:
        return self.folder / f".{split}.times"

    def _text(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def _write(self, path: Path, offset: int, values: Rows) -> None:
        if path not in self._open:
            path.touch()
            self._open[path] = path.open("r+b")
        self._open[path].seek(offset)
        self._open[path].write(values.tobytes())

    def _commit(self) -> None:
        """Flush the rows to disk, then update the journal."""
        if not self._pending:
            return
        for file in self._open.values():
            file.flush()
            os.fsync(file.fileno())
        with (self.folder / JOURNAL).open("a", encoding="utf-8") as journal:
            for key, place in self._pending.items():
                journal.write(json.dumps([*key, *place]) + "\n")
        self.places |= self._pending
        self._pending = {}
        self._committed = time.monotonic()

    def _close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def _start(self, size: int) -> None:
        """Start with embeddings of this size, without files of an unreadable journal."""
        self.size, self.places, self._pending = size, {}, {}
        self._ends = dict.fromkeys(self.order, 0)
        self._close()
        for split in self.order:
            self._rows(split).unlink(missing_ok=True)
            self._times(split).unlink(missing_ok=True)
        self._write_journal()

    def _write_journal(self) -> None:
        lines = [str(self.size), *(json.dumps([*key, *at]) for key, at in self.places.items())]
        write_text(self.folder / JOURNAL, "\n".join(lines) + "\n")

    def _read_journal(self) -> None:
        try:
            size, *lines = (self.folder / JOURNAL).read_text(encoding="utf-8").splitlines()
            self.size = int(size)
        except (FileNotFoundError, ValueError):
            return
        with suppress(ValueError):  # its last line was not written whole
            for line in lines:
                split, name, first, steps = json.loads(line)
                self.places[split, name] = first, steps
                self._ends[split] = max(self._ends[split], first + steps)
        self._write_journal()


def _labels_at(events: Sequence[Any], times: Sequence[NDArray[np.float64]]) -> list[list[str]]:
    """The labels of the events at each time step, in heareval's order."""
    from intervaltree import IntervalTree  # from the extra that event tasks need

    labels = []
    for of_clip, at in zip(events, times, strict=True):
        tree = IntervalTree()
        for event in of_clip:  # one by one, since the order of the results depends on it
            tree.addi(event["start"], event["end"] + END_INCLUDED, event["label"])
        found = [[event.data for event in tree.at(moment)] for moment in at]
        labels += json.loads(json.dumps(found))  # separate strings, as in the pickle
    return labels
