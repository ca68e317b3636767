"""The cost card of a run: what it needs, partly counted, partly measured on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from tqdm import tqdm

from hear_axlstm.audio.mel import frame_count
from hear_axlstm.config import MelConfig
from hear_axlstm.data.corpus import FRAME_DTYPE, Corpus
from hear_axlstm.data.dataset import split_validation
from hear_axlstm.models.patch_embed import random_mask
from hear_axlstm.models.pretraining import MaskedPatchModel
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.pretrain.flops import training_flops
from hear_axlstm.training.device import choose_device, keep_freed_memory
from hear_axlstm.training.distributed import DistContext
from hear_axlstm.training.meter import peak_memory
from hear_axlstm.training.step import TrainStep

AUDIOSET_CLIPS = 2_000_000  # roughly, says the paper (section 3.1)
AUDIOSET_SECONDS = 10
MEASURE_SECONDS = 40.0  # with the first, slower step a measurement stays below a minute
BYTES_PER_PARAMETER = 16  # weight, gradient and AdamW's two moments, float32


@dataclass(frozen=True)
class CostCard:
    """What a run takes. `str` of it is the card."""

    config: PretrainConfig
    clips: int
    """Clips of an epoch."""
    disk_bytes: int
    """Of the packed clips."""
    parameters: int
    flops: int
    """Of one optimizer step, forward and backward."""
    where: str
    """Device, precision and clips at once that were measured."""
    clips_per_second: float
    """Of training steps with made-up data, on this machine by one process."""
    measured_clips: int
    """Clips of one measured step; at most the batch."""
    peak_bytes: int
    """Of memory in the measurement: the device's, or the process' on a CPU."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return max(1, round(self.config.epochs * self.clips / self.config.batch_size))

    @property
    def hours(self) -> float:
        """Length of the run at the measured speed."""
        return self.steps * self.config.batch_size / self.clips_per_second / 3600

    def __str__(self) -> str:
        batch = self.config.batch_size
        per_second = self.flops / batch * self.clips_per_second
        state = self.parameters * BYTES_PER_PARAMETER
        lines = {
            "schedule": f"{self.config.epochs:g} epochs of {self.clips:,} clips, batch {batch}: "
            f"{self.steps:,} steps",
            "parameters": f"{self.parameters:,}",
            "FLOPs a step": f"{self.flops:.3g} ({self.flops / batch / 1e9:.1f} G a clip)",
            "memory": f"{state / 1e9:.2f} GB for weights, gradients and AdamW; "
            f"{self.peak_bytes / 1e9:.2f} GB at the peak",
            "measured": f"{self.clips_per_second:.1f} clips/s, {per_second / 1e12:.3g} TFLOP/s "
            f"({self.where}; steps of {self.measured_clips} clips, made-up data)",
            "disk": f"{self.disk_bytes / 1e9:,.1f} GB of packed log-mel",
            "time": f"{self.hours:,.1f} hours on this machine, one process",
        }
        return "\n".join(f"{name:<13}{text}" for name, text in lines.items())


def estimate(
    config: PretrainConfig, corpus: Corpus | None = None, seconds: float = MEASURE_SECONDS
) -> CostCard:
    """Count and measure what a run takes.

    Whole micro-batches are learned from, as many as fit into the time, up to the run's batch.

    Args:
        config: settings of the run.
        corpus: what to train on; by default AudioSet, which need not be at hand.
        seconds: about how long to measure.

    Raises:
        ValueError: if this machine lacks the device.
    """
    device = choose_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if device.type == "cpu":
        keep_freed_memory()
    with torch.random.fork_rng(devices=[]):
        train_step = TrainStep(
            MaskedPatchModel(config.model).to(device), config, DistContext(device)
        )
        size, rate, peak = _measure(train_step, seconds)
    if corpus is None:
        clips, disk = AUDIOSET_CLIPS, audioset_bytes(config.model.mel)
    else:
        clips = len(split_validation(corpus)[0])
        disk = int(corpus.index.frames.sum()) * corpus.mel.n_mels * FRAME_DTYPE.itemsize
    return CostCard(
        config=config,
        clips=clips,
        disk_bytes=disk,
        parameters=sum(p.numel() for p in train_step.parameters),
        flops=config.batch_size * training_flops(config.model),
        where=f"{device}, {str(train_step.precision).removeprefix('torch.')}, "
        f"micro-batches of {train_step.micro_batch}",
        clips_per_second=rate,
        measured_clips=size,
        peak_bytes=peak,
    )


def audioset_bytes(config: MelConfig) -> int:
    """Size of AudioSet as a pack: one float16 a frame and mel bin."""
    frames = frame_count(AUDIOSET_SECONDS * config.sample_rate, config)
    return AUDIOSET_CLIPS * frames * config.n_mels * FRAME_DTYPE.itemsize


def _measure(train_step: TrainStep, seconds: float) -> tuple[int, float, int]:
    """Clips of a measured step, clips a second, and the peak of memory in bytes."""
    _step(train_step, train_step.micro_batch)  # the first one allocates and chooses kernels
    once = _step(train_step, train_step.micro_batch)
    parts = max(1, int(seconds / 3 / once))  # three steps or more
    size = min(parts * train_step.micro_batch, train_step.config.batch_size)
    spent: list[float] = []
    with tqdm(total=round(seconds), desc="measuring", unit="s", leave=False) as bar:
        while not spent or sum(spent) + spent[-1] < seconds:
            spent.append(_step(train_step, size))
            bar.update(round(sum(spent)) - bar.n)
    return size, size * len(spent) / sum(spent), peak_memory(train_step.device) or 0


def _step(train_step: TrainStep, clips: int) -> float:
    """Seconds of an optimizer step on made-up clips."""
    config = train_step.config.model
    patches = config.grid[0] * config.grid[1]
    mel = torch.randn(clips, config.window_frames, config.mel.n_mels)
    mask = random_mask(clips, patches, config.mask_ratio)
    start = time.monotonic()
    train_step.step(mel, mask, rate=0.0)
    train_step.take_interval()  # waits for the device
    return time.monotonic() - start
