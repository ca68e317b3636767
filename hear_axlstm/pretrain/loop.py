"""The pretraining loop: learn, log, watch the held-out loss, save, resume."""

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
from hear_axlstm.data.corpus import Corpus
from hear_axlstm.data.dataset import CropDataset, crop_dataset, split_held_out
from hear_axlstm.models.pretraining import MaskedPatchModel
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.pretrain.monitor import Watch
from hear_axlstm.pretrain.start import CHECKPOINTS, Resume, check_fit, find_start, sole_use
from hear_axlstm.training.batches import Batch, batch, batches
from hear_axlstm.training.checkpoint_manager import CheckpointKeeper
from hear_axlstm.training.checkpoints import Checkpoint, collect, restore
from hear_axlstm.training.device import keep_freed_memory
from hear_axlstm.training.distributed import Agreement, World, join
from hear_axlstm.training.logging import RunLog, read_log
from hear_axlstm.training.meter import Meter
from hear_axlstm.training.optimizer import learning_rate
from hear_axlstm.training.signals import Interrupted, StopRequest
from hear_axlstm.training.step import Learner

log = logging.getLogger(__name__)

LOG = "log.jsonl"
HELD_OUT_SEED = 0  # the same crops and masks in every epoch and run, so that losses compare


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
    with join(config) as world:
        corpus = Corpus(data)
        check_fit(config, corpus, run, world)
        with sole_use(run, world), StopRequest() as stop:
            start = world.share(find_start(config, corpus, run, resume) if world.is_first else None)
            if world.device.type == "cpu":
                keep_freed_memory()
            if world.is_first:
                settings = json.dumps(config.to_dict(), indent=2)
                (run / "config.json").write_text(settings + "\n")
            training = _Training(config, corpus, run, start, world, stop)
            training.go_on()
            return world.share(training.write_weights() if world.is_first else run)


class _Training:
    """A run in progress, on one of its ranks."""

    def __init__(
        self,
        config: PretrainConfig,
        corpus: Corpus,
        run: Path,
        start: Checkpoint | None,
        world: World,
        stop: StopRequest,
    ) -> None:
        self.config, self.corpus, self.run, self.world, self.stop = config, corpus, run, world, stop
        train, held_out = split_held_out(corpus)
        window = config.model.window_frames
        size, seed, device = config.batch_size, config.seed, world.device
        self.dataset = crop_dataset(corpus, train, window, size, seed, device)
        self.steps = self.dataset.steps(config.epochs)
        self.warmup = min(self.dataset.steps(config.warmup), self.steps - 1)
        self.held_out: Batch | None = None
        if len(held_out):
            watched = CropDataset(corpus, held_out, window, len(held_out), HELD_OUT_SEED)
            self.held_out = batch(watched, config.model, world, step=0)

        with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it is
            torch.manual_seed(config.seed)
            self.model = MaskedPatchModel(config.model).to(world.device)
        self.model.encoder.checkpoint_blocks = config.checkpoint_blocks
        if config.init is not None and start is None:
            checkpoints.initialize(self.model, config.init)
        self.learner = Learner(self.model, config, world, self._count_clips)
        self.step = 0
        if start is not None:
            self.step = start.step
            restore(start.tensors, self.model, self.learner.optimizer)
            interval = start.part("interval")
            self.learner.interval |= {k: v.to(world.device) for k, v in interval.items()}
            log.info("resuming %s at step %d of %d", run, self.step, self.steps)
        self.lines = RunLog(run, self.step, config.to_dict()) if world.is_first else None
        self.watch: Watch | None = None
        if self.lines is not None:
            shown = self.held_out or batch(self.dataset, config.model, world, step=0)
            self.watch = Watch(self.model, config, run, self.lines, shown)
        self.progress: tqdm | None = None
        self.keeper: CheckpointKeeper | None = None

    def go_on(self) -> None:
        """Train from the current step to the last."""
        if self.step == self.steps:
            log.info("%s is finished: %d steps", self.run, self.steps)
            return
        upcoming = batches(self.dataset, self.config.model, self.world, self.step, self.steps)
        if not self.world.is_first:
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
        self.keeper = CheckpointKeeper(self.run / CHECKPOINTS, self.config.keep_checkpoints)
        assert self.lines is not None and self.watch is not None
        with self.keeper, self.progress, self.lines:
            self.watch.start()
            self._loop(upcoming)

    def _loop(self, upcoming: Iterator[Batch]) -> None:
        meter, agreement = Meter(self.config.model, self.world), Agreement(self.world)
        logged_step, saved_at = self.step, time.monotonic()
        while self.step < self.steps:
            mel, mask = meter.next(upcoming)
            done = self.learner.step(mel, mask, self._rate(self.step))
            self.step += done
            if done and self._is_due(self.config.log_every):
                self._log(meter, self.step - logged_step)
                logged_step = self.step
            if done and (self.step == self.steps or self._ends_epochs(1)):
                self._watch_held_out()
                if self.watch is not None:
                    before, last = self.dataset.epoch_at(self.step - 1), self.step == self.steps
                    self.watch.look(self.step, before, self._epoch(), last)
            minutes = (time.monotonic() - saved_at) / 60
            late = self.world.is_first and minutes >= self.config.checkpoint_minutes
            if late:
                saved_at = time.monotonic()  # asked for; with several ranks it comes a step later
            stop, late = agreement.ask(bool(self.stop), late)
            milestone = done and self._ends_epochs(self.config.milestone_epochs)
            if stop or late or milestone or self._is_due(self.config.checkpoint_every):
                self._save(milestone)
                saved_at = time.monotonic()
            if stop:
                agreement.finish()
                self._leave()
        agreement.finish()

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
        return not self.stop or self.world.size > 1  # several ranks stop after the same step

    def _log(self, meter: Meter, steps: int) -> None:
        means = self.learner.take_interval()
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

    def _watch_held_out(self) -> None:
        if self.held_out is None:
            return
        loss = self.learner.evaluate(*self.held_out)
        if self.lines is not None:
            self.lines.write(step=self.step, epoch=self._epoch(), held_out_loss=loss)

    def _save(self, milestone: bool) -> None:
        if self.keeper is None:
            return
        learner = self.learner
        tensors = collect(learner.model, learner.optimizer, learner.interval)
        state = Checkpoint(self.step, self.config, self.corpus.fingerprint, tensors)
        self.keeper.save(state, milestone)

    def _leave(self) -> None:
        if self.keeper is not None:
            self.keeper.wait()
        raise Interrupted(
            f"stopped after step {self.step} of {self.steps}, saved in {self.run}: "
            "give the same command again to resume"
        )

    def write_weights(self) -> Path:
        """Write model.safetensors, with what a model card needs in its header."""
        path = self.run / checkpoints.FILE_NAME
        lines = read_log(self.run / LOG)
        losses = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
        facts = {
            "clips": len(self.corpus),
            "hours": round(self.corpus.hours, 2),
            "corpus": self.corpus.fingerprint,
            "steps": self.steps,
            "held_out_loss": losses[-1] if losses else None,
            "config": self.config.to_dict(),
        }
        checkpoints.save(path, self.model, facts, torch.float32)
        return path
