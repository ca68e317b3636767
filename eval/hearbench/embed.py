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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hearbench.audio import decode_ahead, load_audio
from hearbench.clips import Clip, equal_batches, find_clips
from hearbench.probes import heareval_adapter
from hearbench.systems.registry import System
from hearbench.tasks.folders import Task

SAMPLES_PER_BATCH = 84 * 16_000  # what heareval gives to a model at once, whatever its rate
MEMORY_SHARE = 0.5  # of a GPU's free memory, for one batch
Rows = NDArray[Any]
PROGRESS = "progress.txt"  # seconds of audio embedded so far, and seconds that this took


class EmbeddingError(ValueError):
    """A model's output that no probe can be trained on."""


def embed(system: System, task: Task, folder: Path, threads: int = 1) -> None:
    """Compute the embeddings of one task under `folder`, unless they are there.

    Args:
        system: its model goes to the GPU if there is one.
        task: its audio must be there at the model's rate.
        folder: of this system and task alone; see `heareval_adapter.embedded` for what comes out.
        threads: that torch may use on a CPU.

    Raises:
        TaskError: for audio of another rate, or with several channels.
        EmbeddingError: if the model fails, or its embeddings aren't finite, or not one a clip.
    """
    if heareval_adapter.embedded(task, folder) is not None:
        return
    with heareval_adapter.output_to(folder / heareval_adapter.EMBEDDINGS_LOG):
        torch.set_num_threads(threads)
        begun = time.monotonic() - _progress(folder)[1]
        work = _Work(system, task, folder)
        for seconds in work.embed_clips():
            spent = time.monotonic() - begun
            (folder / PROGRESS).write_text(f"{seconds:.2f} {spent:.1f}")
        work.join_splits()
        work.finish(time.monotonic() - begun)


def embedded_seconds(folder: Path) -> float:
    """Seconds of audio that `embed` has got through in `folder` so far; for progress bars."""
    return _progress(folder)[0]


def _progress(folder: Path) -> tuple[float, float]:
    try:
        audio, spent = (folder / PROGRESS).read_text().split()
        return float(audio), float(spent)
    except (FileNotFoundError, ValueError):  # not begun, or just being written
        return 0.0, 0.0


class _Work:
    """One task on its way through one model."""

    def __init__(self, system: System, task: Task, folder: Path) -> None:
        try:
            from heareval.embeddings import task_embeddings
        except ImportError as error:
            remedy = "run `make setup`, or see eval/tensorflow_standin"
            raise ImportError(f"{error}: {remedy}") from error
        self.official = task_embeddings
        self.task = task
        self.target = folder / system.module / task.path.name
        self.metadata = json.loads((task.path / "task_metadata.json").read_text())
        self.labels = {
            split: json.loads((task.path / f"{split}.json").read_text()) for split in task.splits
        }
        # heareval's own wrapper: torch or TensorFlow, on the GPU if there is one
        self.model = task_embeddings.Embedding(
            system.module, system.model or None, dict(system.options)
        )

    def embed_clips(self) -> Iterator[float]:
        """Write the files of each clip that lacks them; gives the seconds that are done by then."""
        for split in self.labels:
            (self.target / split).mkdir(parents=True, exist_ok=True)
        rate = self.model.sample_rate
        clips = find_clips(self.task, rate)
        missing = [clip for clip in clips if not _is_complete(self._stem(clip))]
        if not missing:
            return
        done = sum(clip.samples for clip in clips) - sum(clip.samples for clip in missing)
        batches = equal_batches(missing, self._samples_at_once(missing))

        def load(index: int) -> NDArray[np.float32]:
            return np.stack([load_audio(clip.path, rate) for clip in batches[index]])

        for batch, audio_Bn in zip(batches, decode_ahead(load, len(batches)), strict=True):
            self._save(batch, *self._compute(batch, audio_Bn))
            done += sum(clip.samples for clip in batch)
            yield done / rate

    def join_splits(self) -> None:
        """Write the files of each split from those of its clips, in heareval's order."""
        order = random.Random()
        order.seed(0)
        for name in ("task_metadata.json", "labelvocabulary.csv"):
            shutil.copy(self.task.path / name, self.target)
        for split, labels in self.labels.items():
            shutil.copy(self.task.path / f"{split}.json", self.target)
            self.official.memmap_embeddings(
                self.target / split, order, self.metadata, split, self.target, labels
            )

    def finish(self, seconds: float) -> None:
        """Mark the task as done."""
        profile = {
            "time_elapsed": seconds,
            "gpu_max_mem": self.official.gpu_max_mem.measure(),
            "gpu_device_name": self.official.gpu_max_mem.device_name(),
        }
        (self.target / "profile.embeddings.json").write_text(json.dumps(profile, indent=4))
        (self.target / heareval_adapter.EMBEDDED).touch()
        for split in self.labels:
            shutil.rmtree(self.target / split)

    def _stem(self, clip: Clip) -> Path:
        return self.target / clip.split / clip.name

    def _save(self, batch: Sequence[Clip], rows: Rows, times_BT: Rows | None) -> None:
        for index, clip in enumerate(batch):
            one, folder = slice(index, index + 1), self._stem(clip).parent
            labels = [self.labels[clip.split][clip.name]]
            if times_BT is None:
                save = self.official.save_scene_embedding_and_labels
                save(rows[one], labels, (clip.name,), folder)
            else:
                labels = self.official.get_labels_for_timestamps(labels, times_BT[one])
                save = self.official.save_timestamp_embedding_and_labels
                save(rows[one], times_BT[one], labels, (clip.name,), folder)

    def _compute(
        self, batch: Sequence[Clip], audio_Bn: NDArray[np.float32]
    ) -> tuple[Rows, Rows | None]:
        """Scenes [B, D] and None, or steps [B, T, D] and times [B, T]; halves what is too large."""
        try:
            found = self._call_model(audio_Bn)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                raise EmbeddingError(f"{batch[0].path} is too long for the memory") from error
            found = None
        except Exception as error:  # any module may fail in any way of its own
            more = f" and {len(batch) - 1} more of that length" if len(batch) > 1 else ""
            raise EmbeddingError(
                f"{self.model.name} fails on {batch[0].path}{more}: {type(error).__name__}: {error}"
            ) from error
        if found is None:  # only here is the memory of the failed call free
            half = len(batch) // 2
            first = self._compute(batch[:half], audio_Bn[:half])
            second = self._compute(batch[half:], audio_Bn[half:])
            times = [part for part in (first[1], second[1]) if part is not None]
            return np.concatenate([first[0], second[0]]), np.concatenate(times) if times else None
        self._check(batch, *found)
        return found

    def _call_model(self, audio_Bn: NDArray[np.float32]) -> tuple[Rows, Rows | None]:
        if self.metadata["embedding_type"] == "event":
            return self.model.get_timestamp_embedding_as_numpy(audio_Bn)
        return self.model.get_scene_embedding_as_numpy(audio_Bn), None

    def _check(self, batch: Sequence[Clip], rows: Rows, times_BT: Rows | None) -> None:
        dims, wanted = (2, "D") if times_BT is None else (3, "T, D")
        if rows.ndim != dims or len(rows) != len(batch):
            raise EmbeddingError(
                f"{self.model.name} gives {list(rows.shape)} for {len(batch)} clips, "
                f"not [{len(batch)}, {wanted}]"
            )
        if times_BT is not None and times_BT.shape != rows.shape[:2]:
            raise EmbeddingError(
                f"{self.model.name} gives {list(times_BT.shape)} times for {list(rows.shape)} steps"
            )
        finite = np.isfinite(rows).reshape(len(batch), -1).all(axis=1)
        if not finite.all():
            clip = batch[int(finite.argmin())]
            raise EmbeddingError(
                f"{self.model.name} gives NaN or infinity for {clip.path}: look at that file, or "
                "leave the system out"
            )

    def _samples_at_once(self, clips: Sequence[Clip]) -> int:
        """How many samples a batch may hold.

        On a GPU, where larger batches are faster, what fills half of the free memory, as a trial
        with the longest clip tells, but no less than heareval's measure.
        """
        if getattr(self.model, "device", "cpu") != "cuda":
            return SAMPLES_PER_BATCH
        longest = max(clips, key=lambda clip: clip.samples)
        audio_Bn = load_audio(longest.path, self.model.sample_rate)[None]
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        self._compute([longest], audio_Bn)
        bytes_a_sample = (torch.cuda.max_memory_allocated() - before) / audio_Bn.size
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        return max(SAMPLES_PER_BATCH, int(MEMORY_SHARE * free / max(1.0, bytes_a_sample)))


def _is_complete(stem: Path) -> bool:
    """Whether a clip's files are there in full; heareval writes the labels last."""
    try:
        np.load(f"{stem}.embedding.npy", mmap_mode="r")
        json.loads(Path(f"{stem}.target-labels.json").read_text())
    except (FileNotFoundError, ValueError, EOFError):
        return False
    return True
