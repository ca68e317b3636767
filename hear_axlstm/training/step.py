"""One optimizer step; what it computes stays on the device until the log asks for it.

Shapes: B clips of a batch, of which this rank has some rows; W frames of a crop, F mel bins,
N patches.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hear_axlstm.data.dataset import share
from hear_axlstm.ops.cores import on_each_core
from hear_axlstm.ops.precision import product_dtype
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.training.device import choose_micro_batch
from hear_axlstm.training.distributed import DistContext
from hear_axlstm.training.optimizer import adamw, set_learning_rate, skip_if

log = logging.getLogger(__name__)


class TrainStep:
    """A model, its optimizer, and sums over the steps since the last log line.

    Args:
        model: maps (log-mel [rows, W, F], mask [rows, N]) to the loss, a scalar; on all ranks the
            same.
        config: of the run.
        context: the ranks that learn together; `model` lies on its device.
        on_clips: called with the number of clips after each micro-batch; if it returns False, the
            step is given up.
    """

    def __init__(
        self,
        model: nn.Module,
        config: PretrainConfig,
        context: DistContext,
        on_clips: Callable[[int], bool] = lambda clips: True,
    ) -> None:
        self.model = model
        self.config = config
        self.context = context
        self.device = context.device
        self.on_clips, self.counting = on_clips, threading.Lock()
        self.forward = torch.compile(model) if config.compile else model
        self.optimizer = adamw(model, config)
        self.parameters = list(model.parameters())
        self.precision = product_dtype(config.precision, context.device)
        rows = share(config.batch_size, context.rank, context.size)
        self.micro_batch = choose_micro_batch(config, context.device, rows.stop - rows.start)
        self.interval = self._empty_interval()

    def step(self, mel: Tensor, mask: Tensor, rate: float) -> bool:
        """Learn from this rank's rows of a batch, at the learning rate `rate`.

        A step whose loss or gradient is not finite leaves weights and moments as they are.

        Returns:
            False if the step was given up halfway; then nothing changed.
        """
        loss = self._backward_what_fits(mel, mask)
        if loss is None:
            self.optimizer.zero_grad()
            return False
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.context.all_reduce([*gradients, loss])
        norm = nn.utils.get_total_norm(gradients)
        if self.config.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.config.clip_norm, norm)
        bad = (~(loss.isfinite() & norm.isfinite())).float()
        set_learning_rate(self.optimizer, rate)
        skip_if(self.optimizer, bad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._add_to_interval(loss, norm, bad)
        return True

    @torch.no_grad()
    def evaluate(self, mel: Tensor, mask: Tensor) -> float:
        """The mean loss of the rows that all ranks have, without learning from them."""
        self.model.eval()
        total, clips = torch.zeros(2, device=self.device)
        for start in range(0, len(mel), self.micro_batch):
            part, hidden = self._part(mel, mask, start)
            total += self._loss(part, hidden) * len(part)
            clips += len(part)
        self.model.train()
        self.context.all_reduce([total, clips])
        return total.item() / clips.item()

    def take_interval(self) -> dict[str, float]:
        """Means since the last call, and how many steps in a row were bad. Waits for the device."""
        sums = {name: value.item() for name, value in self.interval.items()}
        good = sums["good"] or float("nan")
        in_a_row = self.interval["in_a_row"]
        self.interval = self._empty_interval() | {"in_a_row": in_a_row}
        return {
            "loss": sums["loss"] / good,
            "grad_norm": sums["grad_norm"] / good,
            "skipped": sums["skipped"],
            "in_a_row": sums["in_a_row"],
        }

    def _backward_what_fits(self, mel: Tensor, mask: Tensor) -> Tensor | None:
        """Add up the gradients of a batch; where it does not fit in memory, in smaller parts."""
        while True:
            try:
                return self._backward(mel, mask)
            except torch.OutOfMemoryError as error:
                if self.config.micro_batch is not None or self.micro_batch == 1:
                    raise MemoryError(
                        f"{self.micro_batch} clips at once do not fit in the memory of "
                        f"{self.device}: lower micro_batch, the result stays the same"
                    ) from error
            self.optimizer.zero_grad()
            torch.cuda.empty_cache()
            self.micro_batch = (self.micro_batch + 1) // 2
            log.warning("out of memory: going on with micro_batch=%d", self.micro_batch)

    def _backward(self, mel: Tensor, mask: Tensor) -> Tensor | None:
        """Set the gradients of a batch; on a CPU by as many threads as torch may use."""
        starts = range(0, len(mel), self.micro_batch)
        workers = torch.get_num_threads() if self.device.type == "cpu" else 1
        shares = [starts[worker::workers] for worker in range(max(1, min(workers, len(starts))))]
        done = on_each_core(lambda share: self._gradients(mel, mask, share), shares)
        sums = [result for result in done if result is not None]
        if len(sums) < len(done):
            return None
        total, gradients = sums[0]
        for loss, others in sums[1:]:  # always in this order: equal runs stay equal
            total += loss
            torch._foreach_add_(gradients, others)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return total

    def _gradients(
        self, mel: Tensor, mask: Tensor, starts: range
    ) -> tuple[Tensor, list[Tensor]] | None:
        """Loss and gradients of some micro-batches, added up; None if the step is given up."""
        total = torch.zeros((), device=self.device)
        gradients = [torch.zeros_like(p) for p in self.parameters]
        for start in starts:
            part, hidden = self._part(mel, mask, start)
            # Each row hides equally many patches, so the batch's mean is the weighted mean of these
            loss = self._loss(part, hidden) * (len(part) / self.config.batch_size)
            torch._foreach_add_(gradients, torch.autograd.grad(loss, self.parameters))
            total += loss.detach()
            with self.counting:
                if not self.on_clips(len(part)):
                    return None
        return total, gradients

    def _part(self, mel: Tensor, mask: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """A micro-batch, on the device."""
        rows = slice(start, start + self.micro_batch)
        return (
            mel[rows].to(self.device, non_blocking=True),
            mask[rows].to(self.device, non_blocking=True),
        )

    def _loss(self, mel: Tensor, mask: Tensor) -> Tensor:
        lower = self.precision != torch.float32
        with torch.autocast(self.device.type, self.precision, enabled=lower):
            return self.forward(mel, mask).float()

    def _empty_interval(self) -> dict[str, Tensor]:
        names = ("loss", "grad_norm", "good", "skipped", "in_a_row")
        return {name: torch.zeros((), device=self.device) for name in names}

    def _add_to_interval(self, loss: Tensor, norm: Tensor, bad: Tensor) -> None:
        sums, is_bad = self.interval, bad.bool()
        sums["loss"] += loss.where(~is_bad, 0.0)
        sums["grad_norm"] += norm.where(~is_bad, 0.0)
        sums["good"] += 1.0 - bad
        sums["skipped"] += bad
        sums["in_a_row"] = (sums["in_a_row"] + 1.0) * bad
