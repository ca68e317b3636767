"""The training loop, with logging, checkpoints and evaluation."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from hear_axlstm.progress import Progress
from hear_axlstm.training.checkpoint_manager import CheckpointManager
from hear_axlstm.training.checkpoints import Checkpoint, collect, restore
from hear_axlstm.training.config import RunConfig
from hear_axlstm.training.distributed import DistContext, StopSync
from hear_axlstm.training.logging import RunLog
from hear_axlstm.training.meter import Meter
from hear_axlstm.training.resume import CHECKPOINTS
from hear_axlstm.training.schedule import Schedule
from hear_axlstm.training.signals import Interrupted, StopRequest
from hear_axlstm.training.step import CONSECUTIVE_BAD, Batch, TrainStep

log = logging.getLogger(__name__)


class DivergedError(RuntimeError):
    """Raised if the loss stays infinite or NaN; the message says what to try."""


class Data(Protocol):
    """Training data: batches that are a function of the step."""

    def epoch_at(self, step: int) -> float:
        """Number of epochs completed before a step."""

    def batches(self, first: int, end: int) -> Iterator[Batch]:
        """This rank's rows of the batches of the steps `first` <= step < `end`."""


class Monitor(Protocol):
    """Evaluates a run during training."""

    @property
    def is_over(self) -> bool:
        """Whether training should stop early; the same on all ranks."""

    def on_start(self) -> None:
        """Called before the first step after a start or a resume."""

    def on_epoch_end(self, step: int, epoch: float, last: bool) -> None:
        """Called after the last step of each epoch and of the run.

        Args:
            step: number of steps done.
            epoch: epochs done.
            last: whether training ends here.
        """

    def state(self) -> Mapping[str, Any]:
        """JSON-ready state for the checkpoint."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of a checkpoint."""


class Trainer:
    """A run in progress, on one of its ranks.

    Args:
        run: the run's folder.
        config: settings of the run.
        data_fingerprint: fingerprint of the data.
        train_step: the model and its optimizer step.
        data: the batches.
        schedule: steps and learning rates.
        context: the ranks of the run.
        stop: requests to stop.
        start: checkpoint to resume from, or None.
        milestone_epochs: epochs between checkpoints that are kept permanently.
        flops: FLOPs of a row, for the log.
    """

    monitor: Monitor
    """Set by `fit`."""

    def __init__(
        self,
        run: Path,
        config: RunConfig,
        *,
        data_fingerprint: str,
        train_step: TrainStep,
        data: Data,
        schedule: Schedule,
        context: DistContext,
        stop: StopRequest,
        start: Checkpoint | None = None,
        milestone_epochs: float | None = None,
        flops: int | None = None,
    ) -> None:
        self.run, self.config, self.settings = run, config, config.to_dict()
        self.data_fingerprint, self.train_step, self.data = data_fingerprint, train_step, data
        self.schedule, self.context, self.stop = schedule, context, stop
        self.milestone_epochs, self.flops = milestone_epochs, flops
        self.step = 0 if start is None else start.step
        self.start = start
        if start is not None:
            self._restore(start)
            log.info("resuming %s at step %d of %d", run, self.step, schedule.steps)
        resumed = None if start is None else start.step
        self.log = RunLog(run, resumed, self.settings) if context.is_first else None
        self.bar: Any = None
        self.manager: CheckpointManager | None = None

    def fit(self, monitor: Monitor, title: str) -> None:
        """Train from the current step to the last.

        Args:
            monitor: evaluates the model during training.
            title: title of the progress bar.

        Raises:
            Interrupted: after a request to stop, with everything saved.
            DivergedError: after too many steps in a row without a finite loss.
            CheckpointError: if a checkpoint can't be written.
        """
        self.monitor = monitor
        if self.start is not None:
            monitor.load_state(self.start.state)
        if self._is_over():
            log.info("%s is finished: %d steps", self.run, self.step)
            return
        upcoming = self.data.batches(self.step, self.schedule.steps)
        with ExitStack() as outputs:
            if self.log is not None:
                outputs.enter_context(self.log)
                self.bar = outputs.enter_context(self._bar(title))
                kept = self.config.keep_checkpoints
                manager = CheckpointManager(self.run / CHECKPOINTS, kept)
                self.manager = outputs.enter_context(manager)
            monitor.on_start()
            self._loop(upcoming)

    def _loop(self, upcoming: Iterator[Batch]) -> None:
        meter, stop_sync = Meter(self.flops, self.context), StopSync(self.context)
        logged_step, saved_at = self.step, time.monotonic()
        while not self._is_over():
            batch = meter.next(upcoming)
            lr_of_peak = partial(self.schedule.lr, self.step)
            done = self.train_step.step(batch, self.step, lr_of_peak, self._count_rows)
            self.step += done
            if done and self._is_due(self.config.log_every):
                self._report(meter, self.step - logged_step)
                logged_step = self.step
            last = self.step == self.schedule.steps
            if done and (last or self.ends_epochs(1)):
                with meter.paused():
                    self.monitor.on_epoch_end(self.step, self.epoch, last)
            minutes = (time.monotonic() - saved_at) / 60
            late = self.context.is_first and minutes >= self.config.checkpoint_minutes
            if late:
                saved_at = time.monotonic()  # requested; with several ranks, saved a step later
            stop, late = stop_sync.poll(bool(self.stop), late)
            milestone = done and self._is_milestone()
            if stop or late or milestone or self._is_due(self.config.checkpoint_every):
                self._save(milestone, stop or milestone or self._is_over())
                saved_at = time.monotonic()
            if stop:
                stop_sync.finish()
                self._leave()
        stop_sync.finish()

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.data.epoch_at(self.step)

    def ends_epochs(self, every: float) -> bool:
        """Whether the last step reached or passed a multiple of `every` epochs."""
        before = self.data.epoch_at(self.step - 1)
        return math.floor(self.epoch / every) > math.floor(before / every)

    def _is_over(self) -> bool:
        return self.step >= self.schedule.steps or self.monitor.is_over

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self._is_over()

    def _is_milestone(self) -> bool:
        every = self.milestone_epochs
        is_due = every is not None and self.ends_epochs(every)
        return is_due or self.step == self.schedule.stable_steps

    def _count_rows(self, rows: int) -> bool:
        """Show progress after a micro-batch; return whether to continue the step."""
        if self.bar is not None:
            self.bar.update(rows)
        return not self.stop or self.context.size > 1  # several ranks stop after the same step

    def _bar(self, title: str) -> Progress:
        size = self.train_step.batch_size
        total, done = self.schedule.steps * size, self.step * size
        return Progress(total=total, initial=done, unit="clip", desc=title)

    def _report(self, meter: Meter, steps: int) -> None:
        means = self.train_step.take_metrics()
        consecutive_bad = means.pop(CONSECUTIVE_BAD)
        speed = meter.take(steps * self.train_step.batch_size)
        if self.log is not None:
            lr = self.train_step.optimizers[0].param_groups[0]["lr"]
            self.log.write(step=self.step, epoch=self.epoch, **means, lr=lr, **speed)
        if self.bar is not None:
            state = f"epoch {self.epoch:.1f}, loss {means['loss']:.4f}"
            self.bar.set_postfix_str(state, refresh=False)
            self.bar.update(self.step * self.train_step.batch_size - self.bar.n)
        self._check_diverged(consecutive_bad)

    def _check_diverged(self, consecutive_bad: float) -> None:
        if consecutive_bad >= self.config.stop_after_bad_steps:
            groups = [g for o in self.train_step.optimizers for g in o.param_groups]
            peaks = ", ".join(f"{peak:g}" for peak in dict.fromkeys(g["peak"] for g in groups))
            raise DivergedError(
                f"the loss was not finite in {consecutive_bad:.0f} steps in a row, up to step "
                f"{self.step}; the checkpoints in {self.run / CHECKPOINTS} are older. Lower the "
                f"learning rate (now {peaks}), or set clip_norm, in a new run"
            )

    def _save(self, milestone: bool, required: bool) -> None:
        """Save a checkpoint; after skipped steps only if required, so that good ones are kept."""
        if self.manager is None:
            return
        step = self.train_step
        parts = {"interval": step.metrics}
        if step.average is not None:
            parts["average"] = step.average.tensors
        tensors = collect(step.model, step.optimizers, parts)
        if tensors[f"interval.{CONSECUTIVE_BAD}"] > 0 and not required:
            return
        state = self.monitor.state()
        checkpoint = Checkpoint(self.step, self.settings, self.data_fingerprint, tensors, state)
        self.manager.save(checkpoint, milestone)

    def _restore(self, start: Checkpoint) -> None:
        step = self.train_step
        restore(start.tensors, step.model, step.optimizers)
        step.metrics |= {k: v.to(self.context.device) for k, v in start.part("interval").items()}
        if step.average is not None:
            step.average.load(start.part("average"))

    def _leave(self) -> None:
        if self.manager is not None:
            self.manager.wait()
        raise Interrupted(
            f"stopped after step {self.step} of {self.schedule.steps}, saved in {self.run}: "
            "run the same command again to resume"
        )
