"""Embedding of a task: batches of equally long clips, decoded ahead, resumable.

Clips of equal length share a batch (heareval does not batch tasks of mixed lengths), and the next
batch is decoded in the background.

Shapes: B clips, n samples, T time steps, D embedding size.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hearbench.audio import AudioError, load_audio, prefetch
from hearbench.embed.files import EmbeddingFiles, embedded
from hearbench.embed.model import EmbeddingError, HearModel, check_output
from hearbench.logs import output_to
from hearbench.systems.fingerprint import Fingerprint
from hearbench.systems.specs import System
from hearbench.tasks.audio import Clip, check_unchanged, find_clips
from hearbench.tasks.folders import Task

SAMPLES_PER_BATCH = 84 * 16_000  # heareval's batch size, whatever the sample rate
MEMORY_SHARE = 0.5  # of a GPU's free memory, for one batch
Rows = NDArray[Any]
PROGRESS = "progress.txt"  # seconds of audio embedded so far, and seconds that this took
LOG = "embeddings.log"


def embed(
    system: System,
    task: Task,
    folder: Path,
    threads: int = 1,
    fingerprint: Fingerprint | None = None,
) -> None:
    """Compute the embeddings of one task under `folder`, unless they exist.

    Args:
        system: the system; its model is moved to the GPU if there is one.
        task: the task, with audio at the model's rate.
        folder: folder of this system and task; see `hearbench.embed.files` for its files.
        threads: number of threads for torch on a CPU.
        fingerprint: what the system must still have; None for any.

    Raises:
        SystemSpecError: if the system can't be loaded, or has another fingerprint.
        TaskError: for audio at another rate, or with several channels, and for a file that has
            changed since the task's digests were computed.
        AudioError: for a file that can't be decoded.
        EmbeddingError: if the model fails, its embeddings are not finite or not one per clip, or
            its timestamps are invalid.
    """
    if embedded(task, folder) is not None:
        return
    with output_to(folder / LOG):
        torch.set_num_threads(threads)
        begun = time.monotonic() - _progress(folder)[1]
        model = HearModel(system, fingerprint)
        with EmbeddingFiles(folder / system.module / task.path.name, task) as files:
            for seconds in _embed_clips(model, task, files):
                spent = time.monotonic() - begun
                (folder / PROGRESS).write_text(f"{seconds:.2f} {spent:.1f}", "utf-8")
            files.finish(_profile(time.monotonic() - begun))


def embedded_seconds(folder: Path) -> float:
    """Seconds of audio embedded so far in `folder`, for progress bars."""
    return _progress(folder)[0]


def equal_batches(clips: Sequence[Clip], most_samples: int) -> list[list[Clip]]:
    """Batch clips of equal length, the longest first, with at most `most_samples` per batch."""
    by_length: dict[int, list[Clip]] = {}
    for clip in clips:
        by_length.setdefault(clip.samples, []).append(clip)
    batches = []
    for samples, alike in sorted(by_length.items(), reverse=True):
        size = max(1, most_samples // max(1, samples))
        batches += [alike[i : i + size] for i in range(0, len(alike), size)]
    return batches


def _progress(folder: Path) -> tuple[float, float]:
    try:
        audio, spent = (folder / PROGRESS).read_text("utf-8").split()
        return float(audio), float(spent)
    except (FileNotFoundError, ValueError):  # not begun, or just being written
        return 0.0, 0.0


def _embed_clips(model: HearModel, task: Task, files: EmbeddingFiles) -> Iterator[float]:
    """Embed the missing clips; yields the seconds of audio done so far."""
    rate = model.sample_rate
    clips = find_clips(task, rate)
    missing = [clip for clip in clips if not files.has(clip)]
    if not missing:
        return
    done = sum(clip.samples for clip in clips) - sum(clip.samples for clip in missing)
    batches = equal_batches(missing, _samples_at_once(model, missing, files.is_event))

    def load(index: int) -> NDArray[np.float32]:
        return np.stack([_samples(task, clip, rate) for clip in batches[index]])

    for batch, audio_Bn in zip(batches, prefetch(load, len(batches)), strict=True):
        files.put(batch, *_compute(model, batch, audio_Bn, files.is_event))
        done += sum(clip.samples for clip in batch)
        yield done / rate


def _samples(task: Task, clip: Clip, rate: int) -> NDArray[np.float32]:
    samples = load_audio(clip.path, rate)
    check_unchanged(task, clip.path)
    if len(samples) != clip.samples:
        raise AudioError(
            f"{clip.path}: decodes to {len(samples):,} samples, but its header declares "
            f"{clip.samples:,}: copy it again"
        )
    return samples


def _compute(
    model: HearModel, batch: Sequence[Clip], audio_Bn: NDArray[np.float32], is_event: bool
) -> tuple[Rows, Rows | None]:
    """Compute scenes [B, D] and None, or steps [B, T, D] and times [B, T]; halves large batches."""
    try:
        found = model.timestamps(audio_Bn) if is_event else (model.scenes(audio_Bn), None)
    except torch.OutOfMemoryError as error:
        if len(batch) == 1:
            raise EmbeddingError(
                f"{batch[0].path} is too long to fit in memory: use a machine with more memory, or "
                "leave out this task"
            ) from error
        found = None
    except Exception as error:  # any module may fail in its own way
        more = f" and {len(batch) - 1} more of that length" if len(batch) > 1 else ""
        raise EmbeddingError(
            f"{model.name} fails on {batch[0].path}{more}: {type(error).__name__}: {error}"
        ) from error
    if found is None:  # here the memory of the failed call has been freed
        half = len(batch) // 2
        first = _compute(model, batch[:half], audio_Bn[:half], is_event)
        second = _compute(model, batch[half:], audio_Bn[half:], is_event)
        times = [part for part in (first[1], second[1]) if part is not None]
        return np.concatenate([first[0], second[0]]), np.concatenate(times) if times else None
    check_output(model.name, model.sample_rate, batch, *found)
    return found


def _samples_at_once(model: HearModel, clips: Sequence[Clip], is_event: bool) -> int:
    """Maximum number of samples in a batch.

    On a GPU, where larger batches are faster, as many as fill half of the free memory, estimated
    from a trial with the longest clip, but at least as many as in heareval.
    """
    if model.device != "cuda":
        return SAMPLES_PER_BATCH
    longest = max(clips, key=lambda clip: clip.samples)
    audio_Bn = load_audio(longest.path, model.sample_rate)[None]
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    _compute(model, [longest], audio_Bn, is_event)
    bytes_a_sample = (torch.cuda.max_memory_allocated() - before) / audio_Bn.size
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    return max(SAMPLES_PER_BATCH, int(MEMORY_SHARE * free / max(1.0, bytes_a_sample)))


def _profile(seconds: float) -> dict[str, Any]:
    """Profile in heareval's format: time, and the GPU's memory in GB."""
    on_gpu = torch.cuda.is_available()
    return {
        "time_elapsed": seconds,
        "gpu_max_mem": torch.cuda.max_memory_reserved() / 2**30 if on_gpu else None,
        "gpu_device_name": torch.cuda.get_device_name() if on_gpu else "cpu",
    }
