"""The pretraining loop: learn, log, evaluate, save, resume."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from hear_axlstm import checkpoints
from hear_axlstm.data.balance import balanced_draws
from hear_axlstm.data.corpus import Corpus
from hear_axlstm.data.dataset import CropDataset, crop_dataset, split_validation
from hear_axlstm.models.pretraining import MaskedPatchModel
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.pretrain.monitor import Monitor
from hear_axlstm.pretrain.start import CHECKPOINTS, Resume, find_resume, lock_dir, validate
from hear_axlstm.training.batches import Batch, batch, batches
from hear_axlstm.training.checkpoint_manager import CheckpointManager
from hear_axlstm.training.checkpoints import Checkpoint, collect, restore
from hear_axlstm.training.device import keep_freed_memory
from hear_axlstm.training.distributed import DistContext, StopSync, join
from hear_axlstm.training.logging import RunLog, read_log
from hear_axlstm.training.meter import Meter
from hear_axlstm.training.optimizer import learning_rate
from hear_axlstm.training.signals import Interrupted, StopRequest
from hear_axlstm.training.step import TrainStep

log = logging.getLogger(__name__)

LOG = "log.jsonl"
VALIDATION_SEED = 0  # the same crops and masks in every epoch and run, so that losses compare


class DivergedError(RuntimeError):
    """The loss stays infinite or NaN; the message says what to try."""


def pretrain(config: PretrainConfig, data: Path, run: Path, resume: Resume = "auto") -> Path:
    """Train an encoder on packed audio, alone or as one of torchrun's processes.

    The folder `run` gets log.jsonl, config.json, checkpoints/ and at the end model.safetensors.

    Args:
        config: settings of the run.
        data: a pack, as `data.pack.pack` makes it.
        run: folder of this run.
        resume: "auto" goes on from the last checkpoint in `run`, if any; "never" refuses to.

    Returns:
        Path of the final weights, float32.

    Raises:
        ValueError: if data, settings or an earlier run in `run` don't fit together, or another
            training is at work there.
        Interrupted: after SIGINT, SIGTERM or SIGUSR1, with everything saved.
        DivergedError: if too many steps in a row had no finite loss.
        CheckpointError: if a checkpoint can't be written, or none can be read.
        OtherRankError: if another process of this run failed.
    """
    run = Path(run)
    with join(config) as context:
        corpus = Corpus(data)
        validate(config, corpus, run, context)
        with lock_dir(run, context), StopRequest() as stop:
            found = find_resume(config, corpus, run, resume) if context.is_first else None
            start = context.broadcast(found)
            if context.device.type == "cpu":
                keep_freed_memory()
            if context.is_first:
                settings = json.dumps(config.to_dict(), indent=2)
                (run / "config.json").write_text(settings + "\n")
            training = Trainer(config, corpus, run, start, context, stop)
            training.fit()
            return context.broadcast(training.write_weights() if context.is_first else run)


class Trainer:
    """A run in progress, on one of its ranks."""

    def __init__(
        self,
        config: PretrainConfig,
        corpus: Corpus,
        run: Path,
        start: Checkpoint | None,
        context: DistContext,
        stop: StopRequest,
    ) -> None:
        self.config, self.corpus, self.run = config, corpus, run
        self.context, self.stop = context, stop
        train, validation = split_validation(corpus)
        window = config.model.window_frames
        size, seed, device = config.batch_size, config.seed, context.device
        draws = balanced_draws(corpus, train, config.balance)
        self.dataset = crop_dataset(corpus, train, window, size, seed, device, draws)
        self.steps = self.dataset.steps(config.epochs)
        self.warmup = min(self.dataset.steps(config.warmup), self.steps - 1)
        self.validation: Batch | None = None
        if len(validation):
            watched = CropDataset(corpus, validation, window, len(validation), VALIDATION_SEED)
            self.validation = batch(watched, config.model, context, step=0)

        with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it is
            torch.manual_seed(config.seed)
            self.model = MaskedPatchModel(config.model).to(context.device)
        self.model.encoder.checkpoint_blocks = config.checkpoint_blocks
        if config.init is not None and start is None:
            checkpoints.initialize(self.model, config.init)
        self.train_step = TrainStep(self.model, config, context, self._count_clips)
        self.step = 0
        if start is not None:
            self.step = start.step
            restore(start.tensors, self.model, self.train_step.optimizer)
            interval = start.part("interval")
            self.train_step.interval |= {k: v.to(context.device) for k, v in interval.items()}
            log.info("resuming %s at step %d of %d", run, self.step, self.steps)
        self.lines = RunLog(run, self.step, config.to_dict()) if context.is_first else None
        self.monitor: Monitor | None = None
        if self.lines is not None:
            shown = self.validation or batch(self.dataset, config.model, context, step=0)
            self.monitor = Monitor(self.model, config, run, self.lines, shown)
        self.progress: tqdm | None = None
        self.manager: CheckpointManager | None = None

    def fit(self) -> None:
        """Train from the current step to the last."""
        if self.step == self.steps:
            log.info("%s is finished: %d steps", self.run, self.steps)
            return
        upcoming = batches(self.dataset, self.config.model, self.context, self.step, self.steps)
        if not self.context.is_first:
            self._loop(upcoming)
            return
        size = self.config.batch_size
        self.progress = tqdm(
            total=self.steps * size,
            initial=self.step * size,
            unit="clip",
            desc="pretraining",
            dynamic_ncols=True,
        )
        self.manager = CheckpointManager(self.run / CHECKPOINTS, self.config.keep_checkpoints)
        assert self.lines is not None and self.monitor is not None
        with self.manager, self.progress, self.lines:
            self.monitor.on_start()
            self._loop(upcoming)

    def _loop(self, upcoming: Iterator[Batch]) -> None:
        meter, stop_sync = Meter(self.config.model, self.context), StopSync(self.context)
        logged_step, saved_at = self.step, time.monotonic()
        while self.step < self.steps:
            mel, mask = meter.next(upcoming)
            done = self.train_step.step(mel, mask, self._rate(self.step))
            self.step += done
            if done and self._is_due(self.config.log_every):
                self._log(meter, self.step - logged_step)
                logged_step = self.step
            if done and (self.step == self.steps or self._ends_epochs(1)):
                self._evaluate()
                if self.monitor is not None:
                    before, last = self.dataset.epoch_at(self.step - 1), self.step == self.steps
                    self.monitor.on_epoch_end(self.step, before, self._epoch(), last)
            minutes = (time.monotonic() - saved_at) / 60
            late = self.context.is_first and minutes >= self.config.checkpoint_minutes
            if late:
                saved_at = time.monotonic()  # asked for; with several ranks it comes a step later
            stop, late = stop_sync.poll(bool(self.stop), late)
            milestone = done and self._ends_epochs(self.config.milestone_epochs)
            if stop or late or milestone or self._is_due(self.config.checkpoint_every):
                self._save(milestone)
                saved_at = time.monotonic()
            if stop:
                stop_sync.finish()
                self._leave()
        stop_sync.finish()

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.steps

    def _rate(self, step: int) -> float:
        return learning_rate(step, self.steps, self.warmup, self.config.peak_lr)

    def _epoch(self) -> float:
        return self.dataset.epoch_at(self.step)

    def _ends_epochs(self, every: float | None) -> bool:
        """Whether the last step brought the run to or past a multiple of so many epochs."""
        if every is None:
            return False
        before = self.dataset.epoch_at(self.step - 1)
        return math.floor(self._epoch() / every) > math.floor(before / every)

    def _count_clips(self, clips: int) -> bool:
        """After each micro-batch: show progress, and say whether to go on."""
        if self.progress is not None:
            self.progress.update(clips)
        return not self.stop or self.context.size > 1  # several ranks stop after the same step

    def _log(self, meter: Meter, steps: int) -> None:
        means = self.train_step.take_interval()
        in_a_row = means.pop("in_a_row")
        clips = steps * self.config.batch_size
        speed = meter.take(clips)
        if self.lines is not None:
            rate = self._rate(self.step - 1)
            self.lines.write(step=self.step, epoch=self._epoch(), **means, lr=rate, **speed)
        if self.progress is not None:
            self.progress.set_postfix_str(f"epoch {self._epoch():.1f}, loss {means['loss']:.4f}")
            self.progress.update(self.step * self.config.batch_size - self.progress.n)
        if in_a_row >= self.config.stop_after_bad_steps:
            raise DivergedError(
                f"the loss of {in_a_row:.0f} steps in a row, up to step {self.step}, was not "
                f"finite; the checkpoints in {self.run / CHECKPOINTS} are from before. "
                f"Lower the learning rate (now {self.config.peak_lr:g}), or set clip_norm, "
                "in a new run"
            )

    def _evaluate(self) -> None:
        if self.validation is None:
            return
        loss = self.train_step.evaluate(*self.validation)
        if self.lines is not None:
            self.lines.write(step=self.step, epoch=self._epoch(), validation_loss=loss)

    def _save(self, milestone: bool) -> None:
        if self.manager is None:
            return
        train_step = self.train_step
        tensors = collect(train_step.model, train_step.optimizer, train_step.interval)
        state = Checkpoint(self.step, self.config, self.corpus.fingerprint, tensors)
        self.manager.save(state, milestone)

    def _leave(self) -> None:
        if self.manager is not None:
            self.manager.wait()
        raise Interrupted(
            f"stopped after step {self.step} of {self.steps}, saved in {self.run}: "
            "give the same command again to resume"
        )

    def write_weights(self) -> Path:
        """Write model.safetensors, with what a model card needs in its header."""
        path = self.run / checkpoints.FILE_NAME
        lines = read_log(self.run / LOG)
        losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
        facts = {
            "clips": len(self.corpus),
            "hours": round(self.corpus.hours, 2),
            "corpus": self.corpus.fingerprint,
            "steps": self.steps,
            "validation_loss": losses[-1] if losses else None,
            "config": self.config.to_dict(),
        }
        checkpoints.save(path, self.model, facts, torch.float32)
        return path
