"""Embeds a task once, in the files that heareval's predictions and our probes both read.

Model wrapper, event labels and every file are heareval's own functions. Only its loop is replaced:
clips of equal length share a batch (heareval never batches a task of mixed lengths), the next batch
is decoded meanwhile, and a killed run goes on where it stopped. heareval's loop writes two or three
small files a clip before it joins them; here they are removed in the end.

Shapes: B clips, n samples, T timestamps, D embedding size.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from eval import kit
from eval.systems import System
from eval.tasks import Task, TaskError
from hear_axlstm.audio import load_audio
from hear_axlstm.data.prefetch import prefetch

SAMPLES_PER_BATCH = 84 * 16_000  # what heareval gives to a model at once, whatever its rate
MEMORY_SHARE = 0.5  # of a GPU's free memory, for one batch
PROGRESS = "progress.txt"  # seconds of audio embedded so far


class EmbeddingError(ValueError):
    """A model's output that no probe can be trained on."""


@dataclass(frozen=True)
class Clip:
    """One audio file of a task."""

    split: str
    name: str
    path: Path
    samples: int


def embed(system: System, task: Task, folder: Path, threads: int = 1) -> None:
    """Compute the embeddings of one task under `folder`, unless they are there.

    Args:
        system: its model goes to the GPU if there is one.
        task: its audio must be there at the model's rate.
        folder: of this system and task alone; see `kit.embedded` for what comes out.
        threads: that torch may use on a CPU.

    Raises:
        TaskError: for audio of another rate, or with several channels.
        EmbeddingError: for embeddings that aren't finite.
    """
    if kit.embedded(task, folder) is not None:
        return
    with kit.output_to(folder / kit.EMBEDDINGS_LOG):
        torch.set_num_threads(threads)
        official = _heareval()
        start = time.monotonic()
        model = official.Embedding(system.module, system.model or None, dict(system.options))
        target = folder / system.module / task.path.name
        clips = list(find_clips(task, model.sample_rate))
        _embed_clips(official, model, task, clips, target)
        _join(official, task, target)
        official.gpu_max_mem.measure()
        profile = {
            "time_elapsed": time.monotonic() - start,
            "gpu_max_mem": official.gpu_max_mem.measure(),
            "gpu_device_name": official.gpu_max_mem.device_name(),
        }
        (target / "profile.embeddings.json").write_text(json.dumps(profile, indent=4))
        (target / kit.EMBEDDED).touch()
        for split in task.splits:
            shutil.rmtree(target / split)


def find_clips(task: Task, sample_rate: int) -> Iterator[Clip]:
    """Every clip of `task` at `sample_rate` Hz, with its length as its header tells it.

    Raises:
        TaskError: for a file that is no audio, of another rate, or with several channels.
    """
    for split in task.splits:
        for name in json.loads((task.path / f"{split}.json").read_text()):
            path = task.path / str(sample_rate) / split / name
            try:
                header = soundfile.info(str(path))
            except (soundfile.LibsndfileError, OSError) as error:
                raise TaskError(f"{path}: not decodable ({error}): unpack the task again") from None
            if (header.samplerate, header.channels) != (sample_rate, 1):
                raise TaskError(
                    f"{path}: {header.samplerate} Hz with {header.channels} channel(s), the model "
                    f"wants {sample_rate} Hz mono: resample the task"
                )
            yield Clip(split, name, path, header.frames)


def embedded_seconds(folder: Path) -> float:
    """Seconds of audio that `embed` has got through in `folder` so far; for progress bars."""
    try:
        return float((folder / PROGRESS).read_text())
    except (FileNotFoundError, ValueError):  # not begun, or just being written
        return 0.0


def equal_batches(clips: Sequence[Clip], most_samples: int) -> list[list[Clip]]:
    """Clips of equal length together, the longest first, at most so many samples a batch."""
    by_length: dict[int, list[Clip]] = {}
    for clip in clips:
        by_length.setdefault(clip.samples, []).append(clip)
    batches = []
    for samples, alike in sorted(by_length.items(), reverse=True):
        size = max(1, most_samples // max(1, samples))
        batches += [alike[i : i + size] for i in range(0, len(alike), size)]
    return batches


def _heareval() -> ModuleType:
    try:
        from heareval.embeddings import task_embeddings
    except ImportError as error:
        remedy = "run `make setup`, or see eval/tensorflow_standin"
        raise ImportError(f"{error}: {remedy}") from error
    return task_embeddings


def _embed_clips(
    official: ModuleType, model: Any, task: Task, clips: Sequence[Clip], target: Path
) -> None:
    """Write the files of each clip that lacks them, and how far this is."""
    labels = {}
    for split in task.splits:
        (target / split).mkdir(parents=True, exist_ok=True)
        labels[split] = json.loads((task.path / f"{split}.json").read_text())
    missing = [clip for clip in clips if not _is_complete(target / clip.split / clip.name)]
    progress = target.parents[1] / PROGRESS
    done = sum(clip.samples for clip in clips) - sum(clip.samples for clip in missing)
    if not missing:
        return
    batches = equal_batches(missing, _samples_at_once(model, task, missing))

    def load(index: int) -> tuple[list[Clip], NDArray[np.float32]]:
        batch = batches[index]
        return batch, np.stack([load_audio(clip.path, model.sample_rate) for clip in batch])

    for batch, audio_Bn in prefetch(load, 0, len(batches)):
        embeddings, timestamps = _compute(model, task, batch, audio_Bn)
        for index, clip in enumerate(batch):
            row = slice(index, index + 1)
            arguments: list[Any] = [embeddings[row]]
            label = [labels[clip.split][clip.name]]
            if timestamps is None:
                save = official.save_scene_embedding_and_labels
            else:
                save = official.save_timestamp_embedding_and_labels
                label = official.get_labels_for_timestamps(label, timestamps[row])
                arguments.append(timestamps[row])
            save(*arguments, label, (clip.name,), target / clip.split)
        done += sum(clip.samples for clip in batch)
        progress.write_text(f"{done / model.sample_rate:.2f}")


def _is_complete(stem: Path) -> bool:
    """Whether a clip's files are there in full; heareval writes the labels last."""
    try:
        np.load(f"{stem}.embedding.npy", mmap_mode="r")
        json.loads(Path(f"{stem}.target-labels.json").read_text())
    except (FileNotFoundError, ValueError, EOFError):
        return False
    return True


def _compute(
    model: Any, task: Task, batch: Sequence[Clip], audio_Bn: NDArray[np.float32]
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Scenes [B, D] and None, or events [B, T, D] with times [B, T]; halves what is too large."""
    try:
        if task.embedding_type == "event":
            embeddings, timestamps = model.get_timestamp_embedding_as_numpy(audio_Bn)
        else:
            embeddings, timestamps = model.get_scene_embedding_as_numpy(audio_Bn), None
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
        torch.cuda.empty_cache()
        half = len(batch) // 2
        parts = [
            _compute(model, task, batch[part], audio_Bn[part])
            for part in (slice(half), slice(half, None))
        ]
        times = None if parts[0][1] is None else np.concatenate([part[1] for part in parts])
        return np.concatenate([part[0] for part in parts]), times
    finite = np.isfinite(embeddings.reshape(len(batch), -1)).all(axis=1)
    if not finite.all():
        clip = batch[int(np.argmin(finite))]
        raise EmbeddingError(
            f"{model.name} gives NaN or infinity for {clip.path}: no probe can learn from that"
        )
    return embeddings, timestamps


def _samples_at_once(model: Any, task: Task, clips: Sequence[Clip]) -> int:
    """How many samples a batch may hold.

    On a GPU, where larger batches are faster, what a trial with one clip says to fill half of the
    free memory, but no less than heareval's measure.
    """
    if getattr(model, "device", "cpu") != "cuda":
        return SAMPLES_PER_BATCH
    longest = max(clips, key=lambda clip: clip.samples)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _compute(model, task, [longest], load_audio(longest.path, model.sample_rate)[None])
    bytes_a_sample = (torch.cuda.max_memory_allocated() - before) / longest.samples
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    return max(SAMPLES_PER_BATCH, int(MEMORY_SHARE * free / max(bytes_a_sample, 1.0)))


def _join(official: ModuleType, task: Task, target: Path) -> None:
    """Write the files of each split from those of its clips, in heareval's order."""
    order = random.Random()
    order.seed(0)
    for name in ("task_metadata.json", "labelvocabulary.csv"):
        shutil.copy(task.path / name, target)
    metadata = json.loads((task.path / "task_metadata.json").read_text())
    for split in metadata["splits"]:
        shutil.copy(task.path / f"{split}.json", target)
        labels = json.loads((task.path / f"{split}.json").read_text())
        official.memmap_embeddings(target / split, order, metadata, split, target, labels)
