"""Estimated cost of a run: time, memory, disk space and FLOPs."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from hear_axlstm.audio.mel import frame_count
from hear_axlstm.config import MelConfig, ModelConfig
from hear_axlstm.data.corpus import FRAME_DTYPE, Corpus
from hear_axlstm.data.dataset import split_validation
from hear_axlstm.models.patch_embed import random_mask
from hear_axlstm.models.pretraining import training_flops
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.pretrain.step import make_model, make_train_step
from hear_axlstm.progress import Progress
from hear_axlstm.training.device import choose_device, keep_freed_memory
from hear_axlstm.training.distributed import DistContext
from hear_axlstm.training.meter import peak_memory
from hear_axlstm.training.step import TrainStep
from hear_axlstm.wording import duration

AUDIOSET_CLIPS = 2_000_000  # approximately (paper section 3.1)
AUDIOSET_SECONDS = 10
MEASURE_SECONDS = 40.0  # with the first, slower step a measurement stays below a minute
BYTES_PER_PARAMETER = 16  # weight, gradient and AdamW's two moments, float32


@dataclass(frozen=True)
class RunEstimate:
    """Cost of a run; `str` formats it."""

    config: PretrainConfig
    clips: int
    """Clips per epoch."""
    disk_bytes: int
    """Size of the packed clips."""
    parameters: int
    flops: int
    """FLOPs of one optimizer step, forward and backward."""
    where: str
    """Device, precision and micro-batch of the measurement."""
    clips_per_second: float
    """Speed of training steps on random data, with one process on this machine."""
    measured_clips: int
    """Clips per measured step, at most the batch."""
    peak_bytes: int
    """Peak memory of the measurement: of the device, or of the process on a CPU."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return self.config.steps(self.clips)

    @property
    def hours(self) -> float:
        """Duration of the run at the measured speed."""
        return self.steps * self.config.batch / self.clips_per_second / 3600

    def __str__(self) -> str:
        batch = self.config.batch
        per_second = self.flops / batch * self.clips_per_second
        state = self.parameters * BYTES_PER_PARAMETER
        lines = {
            "schedule": f"{self.config.epochs:g} epochs of {self.clips:,} clips, batch {batch}: "
            f"{self.steps:,} steps",
            "parameters": f"{self.parameters:,}",
            "FLOPs/step": f"{self.flops:.3g} ({self.flops / batch / 1e9:.1f} G per clip)",
            "memory": f"{state / 1e9:.2f} GB for weights, gradients and AdamW; "
            f"{self.peak_bytes / 1e9:.2f} GB at the peak",
            "measured": f"{self.clips_per_second:.1f} clips/s, {per_second / 1e12:.3g} TFLOP/s "
            f"({self.where}; steps of {self.measured_clips} clips, random data)",
            "disk": f"{self.disk_bytes / 1e9:,.1f} GB of packed log-mel",
            "time": f"{duration(3600 * self.hours)} on this machine, one process",
        }
        return "\n".join(f"{name:<13}{text}" for name, text in lines.items())


def estimate_run(
    config: PretrainConfig, corpus: Corpus | None = None, seconds: float = MEASURE_SECONDS
) -> RunEstimate:
    """Estimate the cost of a run by counting and by measuring on this machine.

    The measurement trains on as many micro-batches as fit into the time, at most the run's batch.

    Args:
        config: settings of the run.
        corpus: training corpus; by default AudioSet, which need not be available.
        seconds: approximate duration of the measurement.

    Raises:
        ValueError: if this machine lacks the device.
    """
    if corpus is None:
        clips, disk = AUDIOSET_CLIPS, audioset_bytes(config.model.mel)
    else:
        clips = len(split_validation(corpus)[0])
        disk = int(corpus.index.frames.sum()) * corpus.mel.n_mels * FRAME_DTYPE.itemsize
    config = config.for_corpus(clips)
    device = choose_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if device.type == "cpu":
        keep_freed_memory()
    with torch.random.fork_rng(devices=[]):
        train_step = make_train_step(make_model(config, device), config, DistContext(device))
        size, rate, peak = _measure(train_step, config.model, seconds)
    return RunEstimate(
        config=config,
        clips=clips,
        disk_bytes=disk,
        parameters=sum(p.numel() for p in train_step.parameters),
        flops=train_step.batch_size * training_flops(config.model),
        where=f"{device}, {str(train_step.precision).removeprefix('torch.')}, "
        f"micro-batches of {train_step.micro_batch}",
        clips_per_second=rate,
        measured_clips=size,
        peak_bytes=peak,
    )


def audioset_bytes(config: MelConfig) -> int:
    """Size of AudioSet as a pack: one float16 per frame and mel bin."""
    frames = frame_count(AUDIOSET_SECONDS * config.sample_rate, config)
    return AUDIOSET_CLIPS * frames * config.n_mels * FRAME_DTYPE.itemsize


def _measure(train_step: TrainStep, model: ModelConfig, seconds: float) -> tuple[int, float, int]:
    """Clips per measured step, clips per second, and peak memory in bytes."""
    _step(train_step, model, train_step.micro_batch)  # warm-up: allocations and kernel selection
    once = _step(train_step, model, train_step.micro_batch)
    parts = max(1, int(seconds / 3 / once))  # three steps or more
    size = min(parts * train_step.micro_batch, train_step.batch_size)
    spent: list[float] = []
    with Progress(total=round(seconds), desc="measuring", unit="s", leave=False) as bar:
        while not spent or sum(spent) + spent[-1] < seconds:
            spent.append(_step(train_step, model, size))
            bar.update(round(sum(spent)) - bar.n)
    return size, size * len(spent) / sum(spent), peak_memory(train_step.device) or 0


def _step(train_step: TrainStep, model: ModelConfig, clips: int) -> float:
    """Seconds of an optimizer step on random clips."""
    mel = torch.randn(
        clips, model.window_frames, model.mel.n_mels, dtype=torch.float32, device="cpu"
    )
    mask = random_mask(clips, model.grid[0] * model.grid[1], model.mask_ratio)
    start = time.monotonic()
    train_step.step((mel, mask), number=0, lr_of_peak=lambda peak: 0.0)
    train_step.take_metrics()  # waits for the device
    return time.monotonic() - start
