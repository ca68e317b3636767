"""Write the generated tasks and corpus to disk, atomically."""

from __future__ import annotations

import csv
import json
import shutil
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from joblib import Parallel, delayed
from tqdm import tqdm

from hearbench.synthetic.sounds import SAMPLE_RATE, Rng, Wave
from hearbench.synthetic.tasks import SPLITS, TASKS, MiniatureTask, Split, corpus_clip

VERSION = "v3"  # raise it when the audio changes: folders of other versions are replaced
STAMP = ".miniature-complete"

Clip = tuple[Path, Callable[[Rng], Wave]]
"""A file's path below the folder, and what renders it."""


def write_tasks(out: Path) -> Path:
    """Generate the ten miniature tasks, unless they exist already.

    Args:
        out: folder for the ten task folders, in the on-disk format of HEAR 2021.

    Returns:
        `out`.

    Raises:
        ValueError: if `out` contains files that were not generated here.
    """

    def write(folder: Path) -> list[Clip]:
        clips: list[Clip] = []
        for task in TASKS:
            _write_annotations(task, folder / task.name)
            clips += _task_clips(task)
        return clips

    return _write_once(out, "tasks", write)


def write_corpus(out: Path, clips: int = 400) -> Path:
    """Generate an unlabeled corpus of `clips` WAV files of 2 to 10 s, unless it exists already.

    Returns:
        `out`.

    Raises:
        ValueError: if `clips` is not positive, or `out` contains other files.
    """
    if clips < 1:
        raise ValueError(f"clips={clips}: at least 1 is needed")
    return _write_once(
        out,
        f"corpus of {clips} clips",
        lambda folder: [(Path(f"clip-{i:05d}.wav"), corpus_clip) for i in range(clips)],
    )


def _write_once(out: Path, content: str, write: Callable[[Path], Iterable[Clip]]) -> Path:
    """Fill a temporary folder, stamp it, and move it to `out` when it is complete."""
    stamp = f"{content}, {VERSION}\n"
    stamp_file = out / STAMP
    if stamp_file.is_file() and stamp_file.read_text() == stamp:
        return out
    if out.is_file() or (out.is_dir() and not stamp_file.is_file() and any(out.iterdir())):
        raise ValueError(f"{out} contains other files, not generated here: choose another folder")
    partial_out = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial_out, ignore_errors=True)
    partial_out.mkdir(parents=True)
    try:
        jobs = [delayed(_write_clip)(partial_out, *clip) for clip in write(partial_out)]
        done = Parallel(n_jobs=-1, return_as="generator_unordered")(jobs)
        for _ in tqdm(done, total=len(jobs), desc=f"generating the {content}", unit="clip"):
            pass
        (partial_out / STAMP).write_text(stamp)
        shutil.rmtree(out, ignore_errors=True)
        partial_out.replace(out)
    finally:
        shutil.rmtree(partial_out, ignore_errors=True)
    return out


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
    (folder / "task_metadata.json").write_text(json.dumps(metadata, indent=1))
    with (folder / "labelvocabulary.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["idx", "label"])
        rows.writerows(enumerate(task.classes))
    for split in SPLITS:
        (folder / f"{split}.json").write_text(json.dumps(_split(task, split), indent=1))
