"""Fine-tuning of encoder and head together on audio clips."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from hear_axlstm.audio.mel import frame_count
from hear_axlstm.embed.windows import Budget
from hear_axlstm.finetune.batches import ClipBatches
from hear_axlstm.finetune.classifier import Classifier
from hear_axlstm.finetune.config import FinetuneConfig
from hear_axlstm.finetune.dataset import Dataset
from hear_axlstm.finetune.metrics import loss
from hear_axlstm.finetune.monitor import FinetuneMonitor
from hear_axlstm.training.device import used_generators
from hear_axlstm.training.distributed import DistContext
from hear_axlstm.training.optimizer import adamw, parameter_groups
from hear_axlstm.training.resume import find_resume
from hear_axlstm.training.schedule import Schedule
from hear_axlstm.training.signals import StopRequest
from hear_axlstm.training.step import Batch, TrainStep
from hear_axlstm.training.trainer import Trainer

EPOCHS = 30
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
    with StopRequest() as stop, torch.random.fork_rng(used_generators(context.device)):
        trainer = Trainer(
            run,
            config,
            data_fingerprint=dataset.fingerprint,
            train_step=_train_step(classifier, config, data.batch_size, context),
            data=data,
            schedule=Schedule(steps, min(round(WARMUP * steps), steps - 1)),
            context=context,
            stop=stop,
            start=start,
        )
        trainer.fit(FinetuneMonitor(classifier, dataset, config, trainer), "fine-tuning")


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
    classifier.encoder.enable_mixer()
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
        micro_batch=max(1, Budget.of(context.device).gradient_frames // width),
        cost=windows,
        clip_norm=CLIP_NORM,
    )
