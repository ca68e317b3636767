"""Training encoder and head together on the clips themselves.

Batches, crops and dropout follow from (seed, step), so that a resumed run goes on exactly.

Shapes: n samples or clips, C classes.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from tqdm import tqdm

from hear_axlstm.audio.io import AudioError
from hear_axlstm.audio.listing import Skipped
from hear_axlstm.audio.loader import prefetch
from hear_axlstm.audio.mel import frame_count
from hear_axlstm.audio.sources import AudioClip
from hear_axlstm.checkpoints.format import write
from hear_axlstm.embed.files import scenes_of
from hear_axlstm.embed.windows import Budget, groups
from hear_axlstm.finetune.classifier import FILE_NAME, Classifier
from hear_axlstm.finetune.config import FinetuneConfig
from hear_axlstm.finetune.dataset import Dataset
from hear_axlstm.finetune.heads import Best, named
from hear_axlstm.finetune.metrics import loss, scores
from hear_axlstm.training.checkpoints import collect, restore
from hear_axlstm.training.logging import JsonLines
from hear_axlstm.training.optimizer import learning_rate
from hear_axlstm.training.signals import Interrupted, StopRequest

log = logging.getLogger(__name__)

LOG, CHECKPOINT = "log.jsonl", "checkpoint.safetensors"
EPOCHS, PATIENCE, BATCH_SIZE = 30, 5, 16
WARMUP = 0.1  # of all steps
CLIP_NORM = 1.0
CHECKPOINT_SECONDS = 600.0


def train_through(
    classifier: Classifier, dataset: Dataset, config: FinetuneConfig, run: Path
) -> None:
    """Train the whole classifier; the best one lies in `run` as classifier.safetensors.

    Goes on where an earlier call in `run` was interrupted.

    Raises:
        Interrupted: after SIGINT, SIGTERM or SIGUSR1, with everything saved.
        RuntimeError: if the loss is no longer finite.
    """
    with StopRequest() as stop, torch.random.fork_rng():
        Trainer(classifier, dataset, config, run, stop).fit()


class Trainer:
    """A run in progress."""

    def __init__(
        self,
        classifier: Classifier,
        dataset: Dataset,
        config: FinetuneConfig,
        run: Path,
        stop: StopRequest,
    ) -> None:
        self.classifier, self.dataset, self.config = classifier, dataset, config
        self.run, self.stop = run, stop
        self.device = classifier.encoder.cls_token.device
        self.clips, self.targets = dataset.splits["train"], dataset.targets("train")
        self.size = min(config.batch_size or BATCH_SIZE, len(self.clips))
        self.per_epoch = -(-len(self.clips) // self.size)
        self.steps = self.per_epoch * (config.epochs or EPOCHS)
        self.warmup = min(round(WARMUP * self.steps), self.steps - 1)
        self.optimizer = _optimizer(classifier, config)
        self.step, self.best = 0, Best(config.watched)
        self.loss = torch.zeros((), device=self.device)  # mean of this epoch's steps so far, summed
        if (run / CHECKPOINT).exists():
            self._resume()
            log.info("resuming %s at step %d of %d", run, self.step, self.steps)
        self.lines = JsonLines(run / LOG, self.step)
        if self.step == 0:
            self._evaluate()  # the probe's head on the untouched encoder is what is to be beaten

    def fit(self) -> None:
        """Train from the current step to the last, or until nothing improves anymore."""
        saved = time.monotonic()
        progress = tqdm(
            total=self.steps, initial=self.step, desc="fine-tuning", unit="step", dynamic_ncols=True
        )
        with progress:
            while self.step < self.steps and not self._is_over():
                end = self.step + self.per_epoch - self.step % self.per_epoch
                for clips, targets in prefetch(self._batch, self.step, end):
                    self._learn(clips, targets)
                    self.step += 1
                    progress.update()
                    if self.stop or time.monotonic() - saved >= CHECKPOINT_SECONDS:
                        self._save()
                        saved = time.monotonic()
                    if self.stop:
                        raise Interrupted(
                            f"stopped after step {self.step} of {self.steps}, saved in "
                            f"{self.run}: give the same command again to resume"
                        )
                self._evaluate()
                self._save()
                progress.set_postfix_str(f"best {self.best.metric} {self.best.score:.3f}")

    def _is_over(self) -> bool:
        return self.best.waited >= (self.config.patience or PATIENCE)

    def _batch(self, step: int) -> tuple[list[Tensor], Tensor]:
        """Samples and targets of a step."""
        epoch, index = divmod(step, self.per_epoch)
        order = torch.randperm(
            len(self.clips), generator=torch.Generator().manual_seed(self._seed(epoch))
        )
        rows = order[index * self.size : (index + 1) * self.size]
        rate = self.classifier.sample_rate
        clips = [torch.from_numpy(self.clips[row].decode(rate)) for row in rows.tolist()]
        return clips, self.targets[rows]

    def _learn(self, clips: list[Tensor], targets: Tensor) -> None:
        torch.manual_seed(self._seed(self.step))  # of crops and dropout
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, self.warmup, group["peak"])
        self.classifier.train()
        self.classifier.precision = self.config.precision
        clips = [self._crop(clip).to(self.device) for clip in clips]
        for some in self._what_fits(clips):
            logits = self.classifier.head(self.classifier.scenes([clips[index] for index in some]))
            value = loss(self.classifier.labels, logits, targets[some].to(self.device))
            value = value * (len(some) / len(clips))
            value.backward()
            self.loss += value.detach() / self.per_epoch
        nn.utils.clip_grad_norm_(self.classifier.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _crop(self, samples: Tensor) -> Tensor:
        """The clip ``[n]``, or a random part of it where it is long."""
        most = max(1, round(self.config.crop_seconds * self.classifier.sample_rate))
        first = int(torch.randint(max(0, len(samples) - most) + 1, ()))
        return samples[first : first + most]

    def _what_fits(self, clips: Sequence[Tensor]) -> Iterator[list[int]]:
        """Clips whose windows are few enough for one backward pass; at least one clip."""
        config = self.classifier.config
        most = Budget.of(self.device).gradient_frames // config.window_frames

        def windows(index: int) -> int:
            return math.ceil(frame_count(len(clips[index]), config.mel) / config.window_frames)

        return groups(range(len(clips)), windows, most)

    def _evaluate(self) -> None:
        """End an epoch: score the validation clips, and keep the classifier if it is the best."""
        self.classifier.eval()
        self.classifier.precision = "float32"
        logits = logits_of(self.classifier, self.dataset.splits["valid"])
        found = scores(self.classifier.labels, logits, self.dataset.targets("valid"))
        if not math.isfinite(self.loss.item() + found["loss"]):
            raise RuntimeError(
                f"the loss is not finite after step {self.step}: lower lr and encoder_lr, now "
                f"{self.config.head_lr:g} and {self.config.encoder_lr:g}, in a new folder"
            )
        epoch = self.step // self.per_epoch
        learned = {"loss": self.loss.item()} if self.step else {}
        self.lines.write(step=self.step, epoch=epoch, **learned, **named("valid", found))
        self.loss.zero_()
        if self.best.take(found):
            self.classifier.save(self.run / FILE_NAME, {"epoch": epoch})

    def _seed(self, number: int) -> int:
        return self.config.seed * 1_000_003 + number

    def _save(self) -> None:
        state = {"step": self.step, "best": asdict(self.best)}
        tensors = collect(self.classifier, self.optimizer, {"loss": self.loss})
        write(self.run / CHECKPOINT, tensors, {"state": json.dumps(state)})

    def _resume(self) -> None:
        with safe_open(self.run / CHECKPOINT, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        restore(tensors, self.classifier, self.optimizer)
        self.loss += tensors["interval.loss"].to(self.device)
        self.step, self.best = state["step"], Best(**state["best"])


def logits_of(classifier: Classifier, clips: Sequence[AudioClip]) -> Tensor:
    """Logits ``[n, C]`` on the CPU, with the encoder as it is.

    Raises:
        AudioError: for a file that gives no usable audio.
    """
    logits = []
    for clip, scene in scenes_of(classifier, clips):
        if isinstance(scene, Skipped):
            raise AudioError(f"{clip.id}: {scene.reason}")
        with torch.no_grad():
            logits.append(classifier.head(scene.to(classifier.head.mean.device)).cpu())
    return torch.stack(logits)


def _optimizer(classifier: Classifier, config: FinetuneConfig) -> torch.optim.AdamW:
    """AdamW with a peak learning rate each for encoder and head; biases and such don't decay."""
    groups = []
    for part, peak in ((classifier.encoder, config.encoder_lr), (classifier.head, config.head_lr)):
        for decays in (True, False):
            members = [p for p in part.parameters() if (p.ndim > 1) == decays]
            decay = config.weight_decay if decays else 0.0
            groups.append({"params": members, "weight_decay": decay, "peak": peak})
    return torch.optim.AdamW(groups)
