"""Training of probes with early stopping, by heareval's rules.

Batches follow the order of the data. Every few epochs the validation score is checked; the state
with the strictly best score is kept and tested; a probe stops after `patience` checks without an
improvement. A check computes only the deciding score. A stopped probe leaves the batch.

Shapes: as in `probes`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hearbench.probes.fast.data import ProbeData, ProbeError
from hearbench.probes.fast.hardware import default_device, keep_freed_memory
from hearbench.probes.fast.probes import BatchedProbes, losses
from hearbench.probes.fast.scores import score
from hearbench.probes.grid import Point, Shape
from hearbench.probes.runs import ProductType

BUDGET = {"cpu": 32 << 20, "cuda": 8 << 30}  # bytes of all probes: a cache, a share of a GPU
PRODUCTS: dict[ProductType, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BUFFERS = 8  # approximate number of activations of one layer held at once


@dataclass(frozen=True)
class Fit:
    """A probe to train."""

    seed: int
    fold: int
    number: int
    """Index of its grid point in the order of the search."""
    point: Point


@dataclass(frozen=True)
class Outcome:
    """A trained probe."""

    fit: Fit
    validation_score: float
    epoch: int
    """Epoch of the best state, from 0."""
    logits_NC: Tensor
    """Logits of the test clips, by the best state."""
    seconds: float
    """Its share of the training time of its batch of probes."""


@dataclass
class ProbeState:
    """Early-stopping state of one probe."""

    fit: Fit
    best: float = math.nan
    epoch: int = -1
    checks_since_best: int = 0
    stopped: bool = False
    seconds: float = 0.0

    def update(self, value: float, epoch: int, higher_is_better: bool) -> bool:
        """Update with a value; returns whether it is the best so far (a NaN only if first)."""
        ahead = value > self.best if higher_is_better else value < self.best
        better = ahead or self.epoch < 0 or (math.isnan(self.best) and not math.isnan(value))
        if better:
            self.best, self.epoch, self.checks_since_best = value, epoch, 0
        else:
            self.checks_since_best += 1
        patience = self.fit.point.shape.patience
        self.stopped = self.checks_since_best >= patience or not math.isfinite(value)
        return better


class Trainer:
    """Trains the probes of one task.

    Args:
        data: data of the task.
        precision: type of the hidden layers' products in training.
        device: device, by default a GPU if there is one.
    """

    def __init__(
        self, data: ProbeData, precision: ProductType, device: torch.device | None = None
    ) -> None:
        self.data = data
        self.device = device or default_device()
        self.product_dtype = PRODUCTS[precision]
        if self.device.type == "cpu":
            keep_freed_memory()
        self.by_loss = not data.metadata.get("use_scoring_for_early_stopping", True)
        self.upward = not self.by_loss  # higher is better for all scores of scene tasks

    def at_once(self, shape: Shape) -> int:
        """Number of probes trained at once."""
        width, hidden = shape.hidden_dim, shape.hidden_layers
        weights = self.data.features * width + max(hidden - 1, 0) * width**2
        values = 5 * weights + BUFFERS * hidden * width * min(shape.batch_size, self.data.clips)
        return max(1, BUDGET[self.device.type] // (4 * max(values, 1)))

    def train(
        self, fits: Sequence[Fit], done: Callable[[int], object] = lambda fits: None
    ) -> list[Outcome]:
        """Train probes of any folds and shapes; returns outcomes in the order of `fits`.

        Args:
            fits: probes to train.
            done: called with the number of probes whenever some are finished.
        """
        groups: dict[tuple[int, Shape], list[Fit]] = {}
        for fit in fits:
            groups.setdefault((fit.fold, fit.point.shape), []).append(fit)
        outcomes = {}
        for (_, shape), group in groups.items():
            size = self.at_once(shape)
            for first in range(0, len(group), size):
                for outcome in self._train_together(group[first : first + size], done):
                    outcomes[id(outcome.fit)] = outcome
        return [outcomes[id(fit)] for fit in fits]

    def prefers(self, one: Outcome, other: Outcome) -> bool:
        """Whether `one` has the strictly better validation score; NaN is worse than anything."""
        a, b = one.validation_score, other.validation_score
        return (a > b if self.upward else a < b) or (math.isnan(b) and not math.isnan(a))

    def _train_together(self, fits: Sequence[Fit], done: Callable[[int], object]) -> list[Outcome]:
        fold, shape = self.data.folds[fits[0].fold], fits[0].point.shape
        x_ND, y_NC = self._rows(*fold.train)
        x_valid, y_valid = self._rows(fold.valid)
        x_test, _ = self._rows(fold.test)
        _check_batches(len(x_ND), shape)
        sizes = self.data.features, self.data.classes, self.device, self.product_dtype
        entropies = [(fit.seed, fit.fold, fit.number) for fit in fits]
        stack = BatchedProbes([fit.point for fit in fits], entropies, *sizes)
        probes = [ProbeState(fit) for fit in fits]
        outcomes: list[Outcome] = []
        batches = stack.batches(x_ND, y_NC)
        every = shape.check_val_every_n_epoch
        for epoch in range(every - 1, shape.max_epochs, every):
            start = time.perf_counter()
            for batch in batches * every:
                stack.train_step(batch, self.data.multilabel)
            values = self._values(stack.logits(x_valid), y_valid)
            looks = zip(probes, values, strict=True)
            stack.save_best(
                [i for i, (p, v) in enumerate(looks) if p.update(v, epoch, self.upward)]
            )
            for probe in probes:
                probe.seconds += (time.perf_counter() - start) / len(probes)
                probe.stopped |= epoch + every >= shape.max_epochs
            staying = [i for i, probe in enumerate(probes) if not probe.stopped]
            if len(staying) == len(probes):
                continue
            tested = zip(probes, stack.logits(x_test, best=True).cpu(), strict=True)
            outcomes += [
                Outcome(probe.fit, probe.best, probe.epoch, logits, probe.seconds)
                for probe, logits in tested
                if probe.stopped
            ]
            done(len(probes) - len(staying))
            if not staying:
                break
            stack.prune(staying)
            probes = [probes[i] for i in staying]
        return outcomes

    def _rows(self, *parts: str) -> tuple[Tensor, Tensor]:
        x, y = self.data.rows(*parts)
        return x.to(self.device), y.to(self.device)

    def _values(self, logits_GNC: Tensor, y_NC: Tensor) -> list[float]:
        """Validation value of each probe, for early stopping and selection."""
        if not torch.isfinite(logits_GNC).all():
            raise ProbeError(
                f"{self.data.embeddings}: a probe diverged: check for very large embedding values"
            )
        if self.by_loss:
            return losses(logits_GNC, y_NC, self.data.multilabel).tolist()
        predictions = self.data.predictions(logits_GNC)
        return [score(self.data.metadata["evaluation"][0], p_NC, y_NC) for p_NC in predictions]


def _check_batches(clips: int, shape: Shape) -> None:
    if clips % shape.batch_size == 1:
        raise ProbeError(
            f"{clips} training clips in batches of {shape.batch_size} leave a batch of one, which "
            "BatchNorm can't normalize (heareval fails, too): add or remove a clip"
        )
    if shape.max_epochs < shape.check_val_every_n_epoch:
        raise ProbeError(
            f"max_epochs={shape.max_epochs} ends before the first check of the validation score: "
            f"use at least {shape.check_val_every_n_epoch}"
        )
