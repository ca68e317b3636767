"""One optimizer step; its metrics stay on the device until they are logged."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from hear_axlstm.ops.cores import on_each_core
from hear_axlstm.training.average import WeightAverage
from hear_axlstm.training.distributed import DistContext
from hear_axlstm.training.optimizer import set_lr, step_unless

log = logging.getLogger(__name__)

Batch = tuple[Tensor | Sequence[Tensor], ...]
"""Sequences of equal length with one entry per row: tensors ``[rows, ...]`` or lists of tensors."""

OnRows = Callable[[int], bool]
"""Called after each micro-batch with its number of rows; False aborts the step."""

CONSECUTIVE_BAD = "in_a_row"  # the metric's name in checkpoints


class TrainStep:
    """A model with its optimizers, and metrics summed since the last log line.

    Args:
        model: the model, identical on all ranks, on the device of `context`.
        loss: maps a micro-batch, with the fields of the batch, to the mean loss of its rows.
        optimizers: together they update all parameters; groups have a `peak` learning rate.
        context: the ranks that train together.
        batch_size: rows of a batch over all ranks.
        micro_batch: maximum number of rows to process at once, or maximum cost if `cost` is given.
        cost: cost of each row of a batch; by default 1.
        workers: micro-batches processed at the same time, each by one CPU thread.
        precision: type of the matrix products in `loss`.
        clip_norm: norm to clip gradients to.
        average: average of the weights to update.
        halve_on_oom: whether to halve `micro_batch` instead of failing when memory runs out.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Tensor],
        optimizers: Sequence[torch.optim.Optimizer],
        context: DistContext,
        *,
        batch_size: int,
        micro_batch: int,
        cost: Callable[[Batch], Sequence[int]] | None = None,
        workers: int = 1,
        precision: torch.dtype = torch.float32,
        clip_norm: float | None = None,
        average: WeightAverage | None = None,
        halve_on_oom: bool = True,
    ) -> None:
        self.model, self.loss, self.optimizers = model, loss, optimizers
        self.context, self.device = context, context.device
        self.batch_size, self.micro_batch, self.cost = batch_size, micro_batch, cost
        self.workers, self.precision, self.clip_norm = workers, precision, clip_norm
        self.average, self.halve_on_oom = average, halve_on_oom
        self.parameters = list(model.parameters())
        self._counting = threading.Lock()
        self.metrics = self._no_metrics()

    def step(
        self,
        batch: Batch,
        number: int,
        lr_of_peak: Callable[[float], float],
        on_rows: OnRows = lambda rows: True,
    ) -> bool:
        """Train on this rank's rows of a batch.

        A step whose loss or gradient is not finite leaves weights and moments unchanged; the
        average of the weights is updated as usual.

        Args:
            batch: the rows of this rank.
            number: index of the step, from 0.
            lr_of_peak: maps the peak learning rate of a parameter group to that of this step.
            on_rows: shows progress and may abort the step, see `OnRows`.

        Returns:
            False if the step was aborted; then nothing has changed.
        """
        loss = self._backward_what_fits(batch, on_rows)
        if loss is None:
            self._zero_grad()
            return False
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.context.all_reduce([*gradients, loss])
        norm = nn.utils.get_total_norm(gradients)
        if self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip_norm, norm)
        bad = (~(loss.isfinite() & norm.isfinite())).float()
        for optimizer in self.optimizers:
            set_lr(optimizer, lr_of_peak)
            step_unless(optimizer, bad)
        self._zero_grad()
        if self.average is not None:
            self.average.update(number)
        self._add_to_metrics(loss, norm, bad)
        return True

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> float:
        """Mean loss over the rows of all ranks, with the averaged weights if there are any."""
        self.model.eval()
        total, rows = torch.zeros(2, dtype=torch.float32, device=self.device)
        with self.average.applied() if self.average is not None else nullcontext():
            for part in self._parts(batch):
                fields = self._fields(batch, part)
                if len(fields[0]):  # a rank may have no rows
                    total += self._loss(fields) * len(fields[0])
                    rows += len(fields[0])
        self.model.train()
        self.context.all_reduce([total, rows])
        return total.item() / rows.item()

    def take_metrics(self) -> dict[str, float]:
        """Means since the last call and number of consecutive bad steps; waits for the device."""
        found = {name: value.item() for name, value in self.metrics.items()}
        self.metrics = self._no_metrics() | {CONSECUTIVE_BAD: self.metrics[CONSECUTIVE_BAD]}
        good = found.pop("good") or math.nan
        for name in ("loss", "grad_norm"):
            found[name] /= good
        return found

    def _backward_what_fits(self, batch: Batch, on_rows: OnRows) -> Tensor | None:
        """Sum the gradients of a batch; halve the micro-batch if memory runs out."""
        while True:
            try:
                return self._backward(batch, on_rows)
            except torch.OutOfMemoryError as error:
                if not self.halve_on_oom or self.micro_batch == 1:
                    raise self._too_large() from error
            self._zero_grad()
            torch.cuda.empty_cache()
            self.micro_batch = (self.micro_batch + 1) // 2
            log.warning("out of memory: continuing with micro_batch=%d", self.micro_batch)

    def _too_large(self) -> torch.OutOfMemoryError:
        remedy = "lower micro_batch; the result stays the same"
        if self.micro_batch == 1:
            remedy = "use a smaller model or shorter crops, or checkpoint_blocks in pretraining"
        return torch.OutOfMemoryError(
            f"a micro-batch of {self.micro_batch} does not fit in the memory of {self.device}: "
            f"{remedy}"
        )

    def _backward(self, batch: Batch, on_rows: OnRows) -> Tensor | None:
        """Set the gradients of a batch; None if the step is aborted."""
        parts = self._parts(batch)
        shares = [parts[n :: self.workers] for n in range(max(1, min(self.workers, len(parts))))]
        done = on_each_core(lambda share: self._gradients(batch, share, on_rows), shares)
        sums = [result for result in done if result is not None]
        if len(sums) < len(done):
            return None
        total, gradients = sums[0]
        for loss, others in sums[1:]:  # in a fixed order, for reproducibility
            total += loss
            torch._foreach_add_(gradients, others)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return total

    def _gradients(
        self, batch: Batch, parts: Sequence[slice], on_rows: OnRows
    ) -> tuple[Tensor, list[Tensor]] | None:
        """Summed loss and gradients of some micro-batches; None if the step is aborted."""
        total = torch.zeros((), dtype=torch.float32, device=self.device)
        gradients = [torch.zeros_like(p) for p in self.parameters]
        for part in parts:
            fields = self._fields(batch, part)
            # Rows have equal weight, so the batch's mean is the weighted mean of these
            loss = self._loss(fields) * (len(fields[0]) / self.batch_size)
            torch._foreach_add_(gradients, torch.autograd.grad(loss, self.parameters))
            total += loss.detach()
            with self._counting:
                if not on_rows(len(fields[0])):
                    return None
        return total, gradients

    def _parts(self, batch: Batch) -> list[slice]:
        """Micro-batches: consecutive rows that together cost at most `micro_batch`."""
        costs = [1] * len(batch[0]) if self.cost is None else self.cost(batch)
        parts: list[slice] = []
        first = total = 0
        for row, cost in enumerate(costs):
            if row > first and total + cost > self.micro_batch:
                parts.append(slice(first, row))
                first, total = row, 0
            total += cost
        return [*parts, slice(first, len(costs))]

    def _fields(self, batch: Batch, rows: slice) -> list[Any]:
        """Move a micro-batch to the device."""
        return [_to(field[rows], self.device) for field in batch]

    def _loss(self, fields: Sequence[Any]) -> Tensor:
        lower = self.precision != torch.float32
        with torch.autocast(self.device.type, self.precision, enabled=lower):
            return self.loss(*fields).float()

    def _zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _no_metrics(self) -> dict[str, Tensor]:
        names = ("loss", "grad_norm", "skipped", CONSECUTIVE_BAD, "good")
        zero = torch.zeros((), dtype=torch.float32, device=self.device)
        return {name: zero.clone() for name in names}

    def _add_to_metrics(self, loss: Tensor, norm: Tensor, bad: Tensor) -> None:
        sums, is_bad = self.metrics, bad.bool()
        sums["loss"] += loss.where(~is_bad, 0.0)
        sums["grad_norm"] += norm.where(~is_bad, 0.0)
        sums["good"] += 1.0 - bad
        sums["skipped"] += bad
        sums[CONSECUTIVE_BAD] = (sums[CONSECUTIVE_BAD] + 1.0) * bad


def _to(field: Tensor | Sequence[Tensor], device: torch.device) -> Tensor | list[Tensor]:
    if isinstance(field, Tensor):
        return field.to(device, non_blocking=True)
    return [tensor.to(device, non_blocking=True) for tensor in field]
