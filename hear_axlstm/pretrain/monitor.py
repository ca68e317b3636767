"""What a run shows of itself while it learns: pictures, and the probe's accuracy."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from hear_axlstm.audio.io import AudioError
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.models.pretraining import MaskedPatchModel
from hear_axlstm.pretrain import pictures
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.pretrain.knn import read_labeled
from hear_axlstm.training.logging import RunLog

log = logging.getLogger(__name__)

CLIPS_SHOWN = 4
FOLDER = "pictures"


class Monitor:
    """Looks at the model of a run every `eval_every` epochs.

    Args:
        model: of the run.
        config: of the run.
        run: the run's folder, for the pictures.
        lines: the run's log, for the accuracy.
        shown: log-mel [B, T, F] and mask [B, N]; the first few are drawn, the same every time.

    Raises:
        ProbeError: if the probe's clips can't be used.
    """

    def __init__(
        self,
        model: MaskedPatchModel,
        config: PretrainConfig,
        run: Path,
        lines: RunLog,
        shown: tuple[Tensor, Tensor],
    ) -> None:
        self.model, self.config, self.run, self.lines = model, config, run, lines
        self.mel, self.mask = (x[:CLIPS_SHOWN] for x in shown)
        self.draws = find_spec("matplotlib") is not None
        if not self.draws:
            log.warning("no pictures: matplotlib is missing, pip install 'hear_axlstm[train]'")
        self.probe = None
        if config.probe is not None:
            self.probe = read_labeled(config.probe)
            with torch.random.fork_rng(devices=[]):  # its own encoder is random, and replaced
                self.embedder = Embedder(config.model).to(self._device())
            self.embedder.encoder = model.encoder

    def on_start(self) -> None:
        """Score the weights that training starts from: what every later accuracy compares to.

        Raises:
            AudioError: if a clip of the probe can't be read; found out here, not hours later.
        """
        if self.probe is not None and not any("probe_accuracy" in x for x in self.lines.read()):
            self._score(step=0, epoch=0.0)

    def on_epoch_end(self, step: int, before: float, epoch: float, last: bool) -> None:
        """Draw and score if it is the last step, or if their turn has come.

        Args:
            step: steps that are done.
            before: epochs that were done one step earlier.
            epoch: epochs that are done.
            last: whether training ends here.
        """
        every = self.config.eval_every
        if not last and before // every == epoch // every:
            return
        self.model.eval()
        if self.draws:
            self._draw(step, epoch)
        if self.probe is not None:
            try:
                self._score(step, epoch)
            except AudioError as error:
                log.warning("no probe accuracy at step %d: %s", step, error)
        self.model.train()

    def _draw(self, step: int, epoch: float) -> None:
        device, model = self._device(), self.config.model
        shown = pictures.panels(self.model, self.mel.to(device), self.mask.to(device))
        seconds = model.window_frames * model.mel.hop_length / model.mel.sample_rate
        path = self.run / FOLDER / f"step-{step:08d}.png"
        picture = pictures.draw(shown, seconds, f"{self.run.name}, epoch {epoch:.1f}", path)
        self.lines.show(step, picture)

    def _score(self, step: int, epoch: float) -> None:
        assert self.probe is not None
        accuracy = self.probe.score(self.embedder.eval())
        self.model.train()
        self.lines.write(step=step, epoch=epoch, probe_accuracy=accuracy)

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device
