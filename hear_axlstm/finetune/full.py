"""Fine-tuning of encoder and head together on audio clips.

Shapes: n samples or clips, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hear_axlstm.audio.io import AudioError
from hear_axlstm.audio.loader import prefetch
from hear_axlstm.audio.mel import frame_count
from hear_axlstm.audio.skipped import Skipped
from hear_axlstm.audio.sources import AudioClip
from hear_axlstm.embed.files import scenes_of
from hear_axlstm.embed.windows import Budget
from hear_axlstm.finetune.classifier import FILE_NAME, Classifier
from hear_axlstm.finetune.config import FinetuneConfig
from hear_axlstm.finetune.dataset import Dataset
from hear_axlstm.finetune.heads import Best, named
from hear_axlstm.finetune.metrics import loss, scores
from hear_axlstm.training.distributed import DistContext
from hear_axlstm.training.optimizer import adamw, parameter_groups
from hear_axlstm.training.resume import find_resume
from hear_axlstm.training.schedule import Schedule
from hear_axlstm.training.signals import StopRequest
from hear_axlstm.training.step import Batch, TrainStep
from hear_axlstm.training.trainer import DivergedError, Trainer

EPOCHS, PATIENCE, BATCH_SIZE = 30, 5, 16
WARMUP = 0.1  # of all steps
CLIP_NORM = 1.0
BETAS = (0.9, 0.999)


def train_encoder(
    classifier: Classifier,
    dataset: Dataset,
    config: FinetuneConfig,
    run: Path,
    context: DistContext,
) -> None:
    """Train the whole classifier, and write the best one to `run` as classifier.safetensors.

    Resumes an interrupted call with the same `run`.

    Raises:
        Interrupted: after SIGINT, SIGTERM or SIGUSR1, with everything saved.
        DivergedError: if the loss is no longer finite.
    """
    data = ClipBatches(dataset, config, classifier.sample_rate)
    steps = max(1, round((config.epochs or EPOCHS) * len(data.clips) / data.batch_size))
    start = find_resume(run, dataset.fingerprint, config.conflicts)
    with StopRequest() as stop, torch.random.fork_rng():
        trainer = Trainer(
            run,
            config,
            config.to_dict(),
            dataset.fingerprint,
            _train_step(classifier, config, data.batch_size, context),
            data,
            Schedule(steps, min(round(WARMUP * steps), steps - 1)),
            context,
            stop,
            start,
        )
        trainer.fit(FinetuneMonitor(classifier, dataset, config, trainer), "fine-tuning")


class ClipBatches:
    """Batches of decoded clips and their targets, each a function of seed and step.

    Batches follow one random order of the clips per epoch, even across the end of an epoch.

    Args:
        dataset: its training clips are used.
        config: batch size, crops and seed.
        sample_rate: sample rate of the decoded clips.
    """

    def __init__(self, dataset: Dataset, config: FinetuneConfig, sample_rate: int) -> None:
        self.clips, self.targets = dataset.splits["train"], dataset.targets("train")
        self.batch_size = min(config.batch_size or BATCH_SIZE, len(self.clips))
        self.longest = max(1, round(config.crop_seconds * sample_rate))
        self.seed, self.sample_rate = config.seed, sample_rate
        self._order = lru_cache(maxsize=2)(self._draw_order)  # a batch can span two epochs

    def epoch_at(self, step: int) -> float:
        """Number of epochs completed before a step."""
        return step * self.batch_size / len(self.clips)

    def batches(self, first: int, end: int) -> Iterator[Batch]:
        """Batches of the steps `first` <= step < `end`, prepared one step ahead.

        Seeds PyTorch's generators for each step, so that dropout does not depend on earlier steps.
        """
        for step, batch in enumerate(prefetch(self.batch, first, end), start=first):
            torch.manual_seed(self.seed * 1_000_003 + step)
            yield batch

    def batch(self, step: int) -> Batch:
        """Samples ``[n]`` and targets of a step; long clips are cropped at random."""
        first = step * self.batch_size
        places = (divmod(p, len(self.clips)) for p in range(first, first + self.batch_size))
        rows = [int(self._order(epoch)[place]) for epoch, place in places]
        draw = np.random.default_rng([self.seed, 1, step])
        clips = [torch.from_numpy(self.clips[row].decode(self.sample_rate)) for row in rows]
        return [self._crop(clip, draw) for clip in clips], self.targets[rows]

    def _draw_order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.clips))

    def _crop(self, samples: Tensor, draw: np.random.Generator) -> Tensor:
        first = int(draw.integers(max(0, len(samples) - self.longest) + 1))
        return samples[first : first + self.longest]


class FinetuneMonitor:
    """Scores the validation clips after each epoch, keeps the best classifier, stops early.

    Args:
        classifier: the classifier being trained.
        dataset: its validation clips are scored.
        config: metric, patience and precision.
        trainer: trainer of the run.
    """

    def __init__(
        self, classifier: Classifier, dataset: Dataset, config: FinetuneConfig, trainer: Trainer
    ) -> None:
        self.classifier, self.dataset, self.config = classifier, dataset, config
        self.trainer, self.best = trainer, Best(config.watched)

    @property
    def is_over(self) -> bool:
        """Whether `patience` epochs have passed without improvement."""
        return self.best.waited >= (self.config.patience or PATIENCE)

    def on_start(self) -> None:
        """Score the linear probe on the pretrained encoder, as the baseline to improve on."""
        if self.best.score == -math.inf:  # else resumed
            self._score(0, 0.0)
        self._set_training()

    def on_epoch_end(self, step: int, before: float, epoch: float, last: bool) -> None:
        """Score the validation clips; see `training.trainer.Monitor`."""
        self._score(step, epoch)
        self._set_training()

    def state(self) -> Mapping[str, Any]:
        """Return the best epoch so far."""
        return {"best": asdict(self.best)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the best epoch so far."""
        self.best = Best(**state["best"])

    def _set_training(self) -> None:
        self.classifier.train()
        self.classifier.precision = self.config.precision

    def _score(self, step: int, epoch: float) -> None:
        lines = self.trainer.log
        assert lines is not None
        self.classifier.precision = "float32"
        self.classifier.infer()
        logits = logits_of(self.classifier, self.dataset.splits["valid"])
        found = scores(self.classifier.labels, logits, self.dataset.targets("valid"))
        if not math.isfinite(found["loss"]):
            raise DivergedError(
                f"the validation loss is not finite after step {step}: lower lr and encoder_lr, "
                f"now {self.config.head_lr:g} and {self.config.encoder_lr:g}, in a new folder"
            )
        values = named("valid", found)
        if not any(line["step"] == step and "valid_loss" in line for line in lines.read()):
            lines.write(step=step, epoch=epoch, **values)
        if self.best.take(found):
            self.classifier.save(self.trainer.run / FILE_NAME, {"epoch": epoch})


def logits_of(classifier: Classifier, clips: Sequence[AudioClip]) -> Tensor:
    """Logits ``[n, C]`` on the CPU, with the classifier's current weights.

    Raises:
        AudioError: for a file without usable audio.
    """
    logits = []
    for clip, scene in scenes_of(classifier, clips):
        if isinstance(scene, Skipped):
            raise AudioError(f"{clip.id}: {scene.reason}")
        with torch.no_grad():
            logits.append(classifier.logits(scene).cpu())
    return torch.stack(logits)


def _train_step(
    classifier: Classifier, config: FinetuneConfig, batch_size: int, context: DistContext
) -> TrainStep:
    """Make the train step: cross-entropy, with separate learning rates of encoder and head."""

    def mean_loss(clips: list[Tensor], targets: Tensor) -> Tensor:
        return loss(classifier.labels, classifier.head(classifier.encode_scenes(clips)), targets)

    def windows(batch: Batch) -> list[int]:
        mel = classifier.config.mel
        return [math.ceil(frame_count(len(clip), mel) / width) for clip in batch[0]]

    width = classifier.config.window_frames
    classifier.encoder.use_mixer()
    parts = ((classifier.encoder, config.encoder_lr), (classifier.head, config.head_lr))
    groups = [
        group
        for part, peak in parts
        for group in parameter_groups(part.named_parameters(), peak, config.weight_decay)
    ]
    return TrainStep(
        classifier,
        mean_loss,
        [adamw(groups, BETAS)],
        context,
        batch_size=batch_size,
        micro_batch=Budget.of(context.device).gradient_frames // width,
        cost=windows,
        clip_norm=CLIP_NORM,
    )
