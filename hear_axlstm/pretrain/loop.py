"""The pretraining loop: learn, log, watch the held-out loss, save, resume."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from hear_axlstm import weights
from hear_axlstm.data.corpus import Corpus
from hear_axlstm.data.dataset import CropDataset, split_held_out
from hear_axlstm.data.prefetch import prefetch
from hear_axlstm.masking import random_mask
from hear_axlstm.pretrain import checkpoint as checkpoints
from hear_axlstm.pretrain.checkpoint import Checkpoint
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.pretrain.device import choose_device, keep_freed_memory
from hear_axlstm.pretrain.interrupt import Interrupted, StopRequest
from hear_axlstm.pretrain.log import RunLog
from hear_axlstm.pretrain.optimizer import learning_rate
from hear_axlstm.pretrain.step import Learner
from hear_axlstm.pretrain.watch import Watch
from hear_axlstm.reconstruction import ReconstructionModel

log = logging.getLogger(__name__)

Resume = Literal["auto", "never"]
Batch = tuple[Tensor, Tensor]  # log-mel [B, W, F], mask [B, N]

HELD_OUT_SEED = 0  # the same crops and masks in every epoch and run, so that losses compare


class DivergedError(RuntimeError):
    """The loss stays infinite or NaN; the message says what to try."""


def pretrain(config: PretrainConfig, data: Path, run: Path, resume: Resume = "auto") -> Path:
    """Train an encoder on packed audio.

    The folder `run` gets log.jsonl, config.json, checkpoints/ and at the end model.safetensors.

    Args:
        config: settings of the run.
        data: a pack, as `data.pack.pack` makes it.
        run: folder of this run.
        resume: "auto" goes on from the last checkpoint in `run`, if any; "never" refuses to.

    Returns:
        Path of the final weights, float32.

    Raises:
        ValueError: if data, settings or an earlier run in `run` don't fit together.
        Interrupted: after SIGINT or SIGTERM, with everything saved.
        DivergedError: if too many steps in a row had no finite loss.
    """
    run = Path(run)
    corpus = Corpus(data)
    start = _find_start(config, corpus, run, resume)
    device = choose_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if device.type == "cpu":
        keep_freed_memory()
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    with StopRequest() as stop:
        training = _Training(config, corpus, run, start, device, stop)
        training.go_on()
    return training.write_weights()


def _find_start(
    config: PretrainConfig, corpus: Corpus, run: Path, resume: Resume
) -> Checkpoint | None:
    """The checkpoint to go on from, once it is sure that it belongs to these settings and data."""
    if corpus.mel != config.model.mel:
        raise ValueError(
            f"{corpus.folder} was packed with {corpus.mel}, the model wants {config.model.mel}: "
            "pack the audio again with the model's settings"
        )
    start = checkpoints.load_latest(run / "checkpoints")
    if start is None:
        if config.init is not None:
            weights.locate(config.init)  # a wrong name is said before anything is written
        return None
    if resume == "never":
        raise ValueError(f"{run} already holds a run, at step {start.step}: choose a new folder")
    if conflicts := config.conflicts(start.config):
        raise ValueError(
            f"{run} was started with other settings ({', '.join(conflicts)}): "
            "use them again to resume, or choose a new folder"
        )
    if start.corpus != corpus.fingerprint:
        raise ValueError(
            f"{run} was started on other data than {corpus.folder}: choose a new folder"
        )
    return start


class _Training:
    """A run in progress."""

    def __init__(
        self,
        config: PretrainConfig,
        corpus: Corpus,
        run: Path,
        start: Checkpoint | None,
        device: torch.device,
        stop: StopRequest,
    ) -> None:
        self.config, self.corpus, self.run, self.stop = config, corpus, run, stop
        train, held_out = split_held_out(corpus)
        window = config.model.window_frames
        self.dataset = CropDataset(corpus, train, window, config.batch_size, config.seed)
        self.steps = self.dataset.steps(config.epochs)
        self.warmup = min(self.dataset.steps(config.warmup), self.steps - 1)
        self.held_out: Batch | None = None
        if len(held_out):
            watched = CropDataset(corpus, held_out, window, len(held_out), HELD_OUT_SEED)
            self.held_out = self._batch(watched, step=0)

        with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it is
            torch.manual_seed(config.seed)
            self.model = ReconstructionModel(config.model).to(device)
        if config.init is not None and start is None:
            weights.initialize(self.model, config.init)
        self.learner = Learner(self.model, config, device, self._count_clips)
        self.step = 0
        if start is not None:
            checkpoints.restore(start, self.model, self.learner.optimizer)
            self.learner.interval |= {k: v.to(device) for k, v in start.part("interval").items()}
            self.step = start.step
            log.info("resuming %s at step %d of %d", run, self.step, self.steps)
        self.lines = RunLog(run, self.step, config.to_dict())
        shown = self.held_out or self._batch(self.dataset, step=0)
        self.watch = Watch(self.model, config, run, self.lines, shown)
        self.progress: tqdm | None = None

    def go_on(self) -> None:
        """Train from the current step to the last."""
        if self.step == self.steps:
            log.info("%s is finished: %d steps", self.run, self.steps)
            return
        size = self.config.batch_size
        self.progress = tqdm(
            total=self.steps * size,
            initial=self.step * size,
            unit="clip",
            desc="pretraining",
            dynamic_ncols=True,
        )
        pinned = self.learner.device.type == "cuda"
        batches = prefetch(lambda s: self._batch(self.dataset, s, pinned), self.step, self.steps)
        with self.progress, self.lines:
            self.watch.start()
            self._loop(batches)

    def _loop(self, batches: Iterator[Batch]) -> None:
        logged_step, waited = self.step, 0.0
        logged_at = saved_at = time.monotonic()
        while self.step < self.steps:
            before = time.monotonic()
            mel, mask = next(batches)
            waited += time.monotonic() - before
            done = self.learner.step(mel, mask, self._rate(self.step))
            self.step += done
            if done and self._is_due(self.config.log_every):
                seconds = time.monotonic() - logged_at
                self._log(seconds, waited, self.step - logged_step)
                logged_step, logged_at, waited = self.step, time.monotonic(), 0.0
            if done and (self.step == self.steps or self._ends_epoch()):
                self._watch_held_out()
                before, last = self.dataset.epoch_at(self.step - 1), self.step == self.steps
                self.watch.look(self.step, before, self._epoch(), last)
            minutes = (time.monotonic() - saved_at) / 60
            late = minutes >= self.config.checkpoint_minutes
            if self.stop or late or self._is_due(self.config.checkpoint_every):
                self._save()
                saved_at = time.monotonic()
            if self.stop:
                raise Interrupted(
                    f"stopped after step {self.step} of {self.steps}, saved in {self.run}: "
                    "give the same command again to resume"
                )

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.steps

    def _rate(self, step: int) -> float:
        return learning_rate(step, self.steps, self.warmup, self.config.peak_lr)

    def _epoch(self) -> float:
        return self.dataset.epoch_at(self.step)

    def _ends_epoch(self) -> bool:
        return math.floor(self._epoch()) > math.floor(self.dataset.epoch_at(self.step - 1))

    def _batch(self, dataset: CropDataset, step: int, pinned: bool = False) -> Batch:
        """Crops and masks of a step; in page-locked memory where a GPU fetches them."""
        rows, patches = dataset.batch_size, math.prod(self.config.model.grid)
        ratio = self.config.model.mask_ratio
        mel = dataset.batch(step)
        mask = random_mask(rows, patches, ratio, dataset.mask_generator(step))
        return (mel.pin_memory(), mask.pin_memory()) if pinned else (mel, mask)

    def _count_clips(self, clips: int) -> bool:
        """After each micro-batch: show progress, and say whether to go on."""
        if self.progress is not None:
            self.progress.update(clips)
        return not self.stop

    def _log(self, seconds: float, waited: float, steps: int) -> None:
        means = self.learner.take_interval()
        in_a_row = means.pop("in_a_row")
        self.lines.write(
            step=self.step,
            epoch=self._epoch(),
            **means,
            lr=self._rate(self.step - 1),
            samples_per_second=steps * self.config.batch_size / seconds,
            data_wait=waited / seconds,
        )
        if self.progress is not None:
            self.progress.set_postfix_str(f"epoch {self._epoch():.1f}, loss {means['loss']:.4f}")
        if in_a_row >= self.config.stop_after_bad_steps:
            raise DivergedError(
                f"the loss of {in_a_row:.0f} steps in a row, up to step {self.step}, was not "
                f"finite: lower the learning rate (now {self.config.peak_lr:g}), or set clip_norm"
            )

    def _watch_held_out(self) -> None:
        if self.held_out is None:
            return
        loss = self.learner.evaluate(*self.held_out)
        self.lines.write(step=self.step, epoch=self._epoch(), held_out_loss=loss)

    def _save(self) -> None:
        learner = self.learner
        tensors = checkpoints.collect(learner.model, learner.optimizer, learner.interval)
        state = Checkpoint(self.step, self.config, self.corpus.fingerprint, tensors)
        checkpoints.save(self.run / "checkpoints", state)

    def write_weights(self) -> Path:
        """Write model.safetensors, with what a model card needs in its header."""
        path = self.run / weights.FILE_NAME
        losses = [line["held_out_loss"] for line in self.lines.read() if "held_out_loss" in line]
        facts = {
            "clips": len(self.corpus),
            "hours": round(self.corpus.hours, 2),
            "corpus": self.corpus.fingerprint,
            "steps": self.steps,
            "held_out_loss": losses[-1] if losses else None,
            "config": self.config.to_dict(),
        }
        weights.save(path, self.model, facts, torch.float32)
        return path
