"""Evaluation during pretraining: validation loss, pictures, nearest-neighbor accuracy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from hear_axlstm.audio.errors import AudioError
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.models.pretraining import MaskedPatchModel
from hear_axlstm.pretrain import pictures
from hear_axlstm.pretrain.batches import CropBatch
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.pretrain.knn import find_labeled_clips
from hear_axlstm.pretrain.plot import KNN
from hear_axlstm.training.logging import LOG_NAME, read_log
from hear_axlstm.training.trainer import Trainer

log = logging.getLogger(__name__)

CLIPS_SHOWN = 4
FOLDER = "pictures"


class PretrainMonitor:
    """Computes validation loss every epoch, pictures and kNN accuracy every `eval_epochs` epochs.

    Pictures and accuracy are computed by the first rank only.

    Args:
        config: settings of the run.
        run: the run's folder, for the pictures.
        trainer: trainer of the run.
        model: model of the run.
        validation: this rank's rows of the validation batch, if there is one.
        batch: returns the batch of a step, whose first clips are shown if there is no validation.

    Raises:
        LabelsError: if the labeled clips can't be used.
    """

    is_over = False

    def __init__(
        self,
        config: PretrainConfig,
        run: Path,
        trainer: Trainer,
        model: MaskedPatchModel,
        validation: CropBatch | None,
        batch: Callable[[int], CropBatch],
    ) -> None:
        self.config, self.run, self.trainer, self.model = config, run, trainer, model
        self.validation, self.lines = validation, trainer.log
        self.labeled = None
        if self.lines is None:
            return
        shown = validation if validation and len(validation[0]) else batch(0)
        self.mel, self.mask = (x[:CLIPS_SHOWN] for x in shown)
        self.draws = find_spec("matplotlib") is not None
        if not self.draws:
            log.warning(
                "no pictures: matplotlib is missing; run pip install '.[train]' in the clone"
            )
        if config.knn is not None:
            self.labeled = find_labeled_clips(config.knn)
            with torch.random.fork_rng(devices=[]):  # its own encoder is random, and replaced
                self.embedder = Embedder(config.model).to(self._device())
            self.embedder.encoder = model.encoder

    def on_start(self) -> None:
        """Score the initial weights, as a reference for every later accuracy.

        Raises:
            AudioError: if a labeled clip can't be read, so that training does not start.
        """
        if self.labeled is None or self.lines is None or self.trainer.step:
            return
        if not any(KNN in line for line in read_log(self.run / LOG_NAME)):
            self._score(step=0, epoch=0.0)

    def on_epoch_end(self, step: int, epoch: float, last: bool) -> None:
        """Evaluate; see `training.trainer.Monitor`."""
        if self.validation is not None:
            loss = self.trainer.train_step.evaluate(self.validation)
            if self.lines is not None:
                self.lines.write(step=step, epoch=epoch, validation_loss=loss)
        is_due = last or self.trainer.ends_epochs(self.config.eval_epochs)
        if self.lines is None or not is_due:
            return
        average = self.trainer.train_step.average
        self.model.eval()
        with nullcontext() if average is None else average.applied():
            if self.draws:
                self._draw(step, epoch)
            if self.labeled is not None:
                try:
                    self._score(step, epoch)
                except AudioError as error:
                    log.warning("no kNN accuracy at step %d: %s", step, error)
        self.model.train()

    def state(self) -> Mapping[str, Any]:
        """Return an empty state: evaluations follow from the weights."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Do nothing, since there is no state."""

    def _draw(self, step: int, epoch: float) -> None:
        assert self.lines is not None
        device, model = self._device(), self.config.model
        shown = pictures.panels(self.model, self.mel.to(device), self.mask.to(device))
        seconds = model.window_frames * model.mel.hop_length / model.mel.sample_rate
        path = self.run / FOLDER / f"step-{step:08d}.png"
        picture = pictures.draw(shown, seconds, f"{self.run.name}, epoch {epoch:.1f}", path)
        self.lines.show(step, picture)

    def _score(self, step: int, epoch: float) -> None:
        assert self.labeled is not None and self.lines is not None
        accuracy = self.labeled.score(self.embedder.infer())
        self.model.train()
        self.lines.write(step=step, epoch=epoch, **{KNN: accuracy})

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device
