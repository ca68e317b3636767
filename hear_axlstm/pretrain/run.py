"""Pretraining of a masked-patch model on packed audio."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from hear_axlstm import checkpoints
from hear_axlstm.data.balance import balanced_draws
from hear_axlstm.data.corpus import Corpus
from hear_axlstm.data.dataset import CropDataset, dataset_class, split_validation
from hear_axlstm.files import write_text
from hear_axlstm.models.pretraining import MaskedPatchModel, training_flops
from hear_axlstm.pretrain.batches import CropBatch, MaskedCrops
from hear_axlstm.pretrain.config import CONFIG, PretrainConfig
from hear_axlstm.pretrain.knn import find_labeled_clips
from hear_axlstm.pretrain.monitor import PretrainMonitor
from hear_axlstm.pretrain.resume import (
    check_run_folder,
    find_start,
    has_weights,
    is_finished,
    set_aside_weights,
    with_kept_settings,
)
from hear_axlstm.pretrain.step import make_model, make_train_step
from hear_axlstm.training.checkpoints import Checkpoint
from hear_axlstm.training.device import keep_freed_memory
from hear_axlstm.training.distributed import DistContext, init_distributed
from hear_axlstm.training.logging import LOG_NAME, read_log
from hear_axlstm.training.resume import Resume, lock_dir
from hear_axlstm.training.signals import StopRequest
from hear_axlstm.training.trainer import Trainer

VALIDATION_SEED = 0  # the same crops and masks in every epoch and run, so that losses compare


def pretrain(config: PretrainConfig, data: Path, run: Path, resume: Resume = "auto") -> Path:
    """Pretrain an encoder on packed audio, in one process or under torchrun.

    Writes log.jsonl, config.json, checkpoints/ and finally model.safetensors to `run`.

    Args:
        config: settings of the run.
        data: a pack made by `data.pack.pack`.
        run: folder of this run.
        resume: "auto" resumes from the last checkpoint in `run`, if any; "never" raises an error.

    Returns:
        Path of the final weights, float32.

    Raises:
        ValueError: if data, settings or an earlier run in `run` don't fit together.
        BlockingIOError: if another training run is active there.
        Interrupted: after SIGINT, SIGTERM or SIGUSR1, with everything saved.
        DivergedError: if the loss was not finite for too many steps in a row.
        CheckpointError: if a checkpoint can't be written, or none can be read.
        OtherRankError: if another process of this run failed.
    """
    run = Path(run)
    _check_ranks(config, int(os.environ.get("WORLD_SIZE", 1)))
    with init_distributed(config.device, config.threads) as context:
        corpus = Corpus(data)
        _validate(config, corpus, run, context)
        with lock_dir(run, context), StopRequest() as stop:
            done, start = False, None
            if context.is_first:
                config = with_kept_settings(config, corpus, run)
                done = is_finished(config, corpus, run, resume)
                start = None if done else find_start(config, corpus, run, resume)
            config, done, start = context.broadcast((config, done, start))
            if done:
                return run / checkpoints.FILE_NAME
            _check_ranks(config, context.size)
            if context.device.type == "cpu":
                keep_freed_memory()
            if context.is_first:
                set_aside_weights(config, run)
                settings = json.dumps(config.to_dict(), indent=2)
                write_text(run / CONFIG, settings + "\n")
            trainer, monitor = _assemble(config, corpus, run, context, stop, start)
            trainer.fit(monitor, "pretraining")
            if context.is_first:
                _write_weights(trainer, monitor.model, corpus)
            context.barrier()
            return run / checkpoints.FILE_NAME


def _assemble(
    config: PretrainConfig,
    corpus: Corpus,
    run: Path,
    context: DistContext,
    stop: StopRequest,
    start: Checkpoint | None,
) -> tuple[Trainer, PretrainMonitor]:
    """Make the model, the data, and the trainer and monitor of a run."""
    data, validation = _datasets(config, corpus, context)
    with torch.random.fork_rng(devices=[]):  # leaves the caller's generator unchanged
        torch.manual_seed(config.seed)
        model = make_model(config, context.device)
    if config.init is not None and start is None:
        if context.is_first:  # other machines may have other files under this name
            checkpoints.initialize(model, config.init)
        weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
        model.load_state_dict(context.broadcast(weights))
    trainer = Trainer(
        run,
        config,
        data_fingerprint=corpus.fingerprint,
        train_step=make_train_step(model, config, context),
        data=data,
        schedule=config.learning_rate_schedule(len(data.dataset)),
        context=context,
        stop=stop,
        start=start,
        milestone_epochs=config.milestone_epochs,
        flops=training_flops(config.model),
    )
    return trainer, PretrainMonitor(config, run, trainer, model, validation, data.batch)


def _write_weights(trainer: Trainer, model: MaskedPatchModel, corpus: Corpus) -> Path:
    """Write model.safetensors, with the facts for a model card in its header."""
    path = trainer.run / checkpoints.FILE_NAME
    lines = read_log(trainer.run / LOG_NAME)
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    facts = {
        "clips": len(corpus),
        "hours": round(corpus.hours, 2),
        "corpus": corpus.fingerprint,
        "steps": trainer.schedule.steps,
        "validation_loss": losses[-1] if losses else None,
        "config": trainer.settings,
    }
    average = trainer.train_step.average
    with nullcontext() if average is None else average.applied():
        checkpoints.save(path, model, facts, torch.float32)
    return path


def _datasets(
    config: PretrainConfig, corpus: Corpus, context: DistContext
) -> tuple[MaskedCrops, CropBatch | None]:
    """Make the training data, and a fixed validation batch if the corpus is large enough."""
    train, validation = split_validation(corpus)
    window = config.model.window_frames
    assert config.batch_size is not None
    size, seed, device = config.batch_size, config.seed, context.device
    draws = balanced_draws(corpus, train, config.balance)
    kind = dataset_class(corpus, device)
    dataset = kind(corpus, train, window, size, seed, device, draws, config.mix)
    data = MaskedCrops(dataset, config.model, context)
    if not len(validation):
        return data, None
    fixed = CropDataset(corpus, validation, window, len(validation), VALIDATION_SEED)
    return data, MaskedCrops(fixed, config.model, context).batch(0)


def _check_ranks(config: PretrainConfig, size: int) -> None:
    if config.batch_size is not None and config.batch_size < size > 1:
        raise ValueError(
            f"batch_size={config.batch_size} is less than one clip for each of {size} processes: "
            "start fewer processes, or use a larger batch"
        )


def check_files(config: PretrainConfig, run: Path) -> None:
    """Raise if files that a run needs besides its pack are missing.

    Raises:
        LabelsError, ValueError, FileNotFoundError: naming what is missing.
    """
    if config.knn is not None:
        find_labeled_clips(config.knn)
    if config.init is not None and not has_weights(run):
        checkpoints.locate(config.init)


def _validate(config: PretrainConfig, corpus: Corpus, run: Path, context: DistContext) -> None:
    """Check that the run can start, before anything is written.

    Raises:
        ValueError: if data and settings don't fit together, ranks see different data, or the folder
            has files of others that would be replaced.
        FileNotFoundError: if there are no weights to start from.
    """
    if corpus.mel != config.model.mel:
        raise ValueError(
            f"{corpus.folder} was packed with {corpus.mel}, but the model needs "
            f"{config.model.mel}: pack the audio again with the model's settings"
        )
    if not context.agrees(corpus.fingerprint):
        raise ValueError(
            f"{corpus.folder} is not the same pack on every rank: use the same pack everywhere"
        )
    if context.is_first:  # which writes the files there
        check_run_folder(run)
    # The first rank alone scores the labeled clips
    check_files(config if context.is_first else replace(config, knn=None), run)
