"""A stack whose learning is compiled: hear_axlstm/native/probe.cpp, for a CPU.

It computes what `Stack` does, but all products of a step from factors in `product_dtype`, and
dropout's random numbers fall on other units.

Shapes: as in `stack`; W units of a block, see `by_blocks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from hear_axlstm.ops.native import Memory
from hear_axlstm.ops.native.library import AT_ONCE, GROUP, ROWS, SUFFIXES, call, has_products
from hearbench.probes.batched.grid import Shape
from hearbench.probes.batched.stack import BETAS, NORM, Batch, Stack

BLOCK = AT_ONCE * GROUP  # units that are worked on at once


class CompiledStack(Stack):
    """Probes with one hidden layer, one after the other on one thread."""

    @staticmethod
    def is_usable(shape: Shape, features: int, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether there is compiled code for such probes on this machine."""
        fits = features % ROWS == 0 and shape.hidden_dim % GROUP == 0 and shape.hidden_layers == 1
        return fits and device.type == "cpu" and dtype in SUFFIXES and has_products()

    @cached_property
    def _memory(self) -> Memory:
        return Memory()

    def _arrange(self, probes: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        weights, biases, scales, shifts, outs, out_biases = map(
            torch.stack, zip(*probes, strict=True)
        )
        weights = torch.stack([by_blocks(weight_DH) for weight_DH in weights])
        return [weights, biases, scales, shifts, outs.mT.contiguous(), out_biases]

    @property
    def _axes(self) -> list[int]:
        return [0] * len(self.state)

    def batches(self, x_ND: Tensor, y_NC: Tensor) -> list[Batch]:
        """Embeddings by clip, and by feature with a zero after an odd number of clips."""
        return [(x, _by_feature(x), y) for x, y in super().batches(x_ND, y_NC)]

    @torch.no_grad()
    def learn(self, batch: Batch, multilabel: bool) -> None:
        """One step of Adam."""
        x_ND, x_DN, y_NC = batch
        step = int(self.step_counts[0].add_(1))
        adam = self.shape.lr / (1 - BETAS[0] ** step), (1 - BETAS[1] ** step) ** -0.5
        momentum = NORM.momentum or 0.0
        for probe, dropout in enumerate(self.dropouts):
            count = len(x_ND) * self.shape.hidden_dim
            numbers = self._memory.empty("numbers", y_NC, count, dtype=torch.int16)
            kept = dropout.state, numbers, dropout.threshold, dropout.factor
            given = self._given(x_ND, probe, self.state)
            logits = self._logits(x_ND)
            call("probe_forward", *given, x_ND, NORM.eps, momentum, *kept, logits)
            # The gradient of `losses` with respect to the logits.
            logits_NC = logits[: len(x_ND), : self.classes]
            gradient_NC = (logits_NC.sigmoid() if multilabel else logits_NC.softmax(1)).sub_(y_NC)
            gradient_NC /= y_NC.numel() if multilabel else len(y_NC)
            call("probe_learn", *given, x_DN, *kept, gradient_NC, *adam)

    def _evaluated(self, x_ND: Tensor, state: Sequence[Tensor]) -> Tensor:
        logits_GNC = x_ND.new_empty(len(self), len(x_ND), self.classes)
        for probe, logits_NC in enumerate(logits_GNC):
            logits = self._logits(x_ND)
            call("probe_logits", *self._given(x_ND, probe, state), x_ND, NORM.eps, logits)
            logits_NC.copy_(logits[: len(x_ND), : self.classes])
        return logits_GNC

    def _given(
        self, x_ND: Tensor, probe: int, state: Sequence[Tensor]
    ) -> tuple[tuple[int, ...] | tuple[Tensor, ...], ...]:
        """The structs ProbeSizes, Probe and Activations."""
        *parameters, means, variances = state
        learned = zip(parameters, *self.moments, strict=True)
        tensors = [tensor[probe] for triple in learned for tensor in triple]
        clips, hidden = len(x_ND), self.shape.hidden_dim
        z, *statistics = (
            self._memory.empty(name, means, size)
            for name, size in (("z", clips * hidden), ("mean", hidden), ("inverse", hidden))
        )
        return (
            (clips, self.features, hidden, self.classes),
            (*tensors, means[probe], variances[probe]),
            (z, *statistics),
        )

    def _logits(self, x_ND: Tensor) -> Tensor:
        rows, columns = -(-len(x_ND) // ROWS) * ROWS, -(-self.classes // GROUP) * GROUP
        return self._memory.empty("logits", self.means[0], rows, columns)


def by_blocks(matrix: Tensor) -> Tensor:
    """``[R, H]`` as matrices ``[R, W]`` one after the other, of BLOCK columns or what is left."""
    return torch.cat([block.flatten() for block in matrix.split(BLOCK, 1)])


def _by_feature(x_ND: Tensor) -> Tensor:
    clips, features = x_ND.shape
    in_word = 4 // x_ND.element_size()
    x_DN = x_ND.new_zeros(features, -(-clips // in_word) * in_word)
    x_DN[:, :clips] = x_ND.T
    return x_DN
