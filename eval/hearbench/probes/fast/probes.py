"""Several probes trained as one model: equal shapes and training data, separate parameters.

    x -> [Linear -> BatchNorm -> Dropout -> ReLU] * hidden_layers -> Linear -> logits

like heareval's FullyConnectedPrediction. The first layer of all probes is one wide product, because
they share their input; BatchNorm treats their units as features of one layer; later layers are
batched products.

BatchNorm cancels a bias before it: its gradient consists of rounding errors, which Adam in heareval
turns into steps of full size. Here the bias keeps its initial value, which only shifts the initial
running mean.

Shapes: G probes, N clips, D features of an embedding, H hidden units, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as nnf
from torch.optim.adam import adam

from hearbench.probes.fast.randomness import Dropout, derived_seeds, initial
from hearbench.probes.grid import Point

Batch = tuple[Tensor, ...]

NORM = nn.BatchNorm1d(1)  # for its defaults
BETAS = 0.9, 0.999  # of Adam
HIDDEN_TENSORS = 3  # parameters of a hidden layer: weight, and the norm's scale and shift


class BatchedProbes:
    """G probes with their optimizer, best states, and random streams.

    Args:
        points: settings of each probe; all of one shape.
        entropies: seeds of each probe's initialization and dropout. A probe's result does not
            depend on the others, up to rounding.
        features: D.
        classes: C.
        device: device of all tensors.
        product_dtype: type of the hidden layers' products in training.
    """

    def __init__(
        self,
        points: Sequence[Point],
        entropies: Sequence[Sequence[int]],
        features: int,
        classes: int,
        device: torch.device,
        product_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.shape, self.features, self.classes = points[0].shape, features, classes
        self.product_dtype = product_dtype if self._layers else torch.float32
        pairs = list(zip(points, map(derived_seeds, entropies), strict=True))
        self.dropouts = [Dropout(point.dropout, seed, device) for point, (_, seed) in pairs]
        probes = [initial(point, seed, features, classes) for point, (seed, _) in pairs]
        self.parameters = [tensor.to(device) for tensor in self._arrange(probes)]
        self.means = [-self.parameters.pop(HIDDEN_TENSORS * i + 1) for i in self._layers]
        self.variances = [torch.ones_like(mean) for mean in self.means]
        self.best = [tensor.detach().clone() for tensor in self.state]
        self.moments = [[torch.zeros_like(p) for p in self.parameters] for _ in range(2)]
        self.step_counts = [torch.zeros((), device=device) for _ in self.moments[0]]

    def __len__(self) -> int:
        return len(self.dropouts)

    @property
    def _layers(self) -> range:
        return range(self.shape.hidden_layers)

    @property
    def state(self) -> list[Tensor]:
        """All tensors that predictions depend on."""
        return [*self.parameters, *self.means, *self.variances]

    @property
    def _axes(self) -> list[int]:
        """Axis of the probes in each tensor of the state."""
        return [int(len(self._layers) > 0), *[0] * (len(self.state) - 1)]

    def _arrange(self, probes: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Stack the parameters of several probes in batched tensors.

        The first hidden weight is ``[D, G, H]``, one wide matrix; all other tensors begin with G.
        """
        wide = len(self._layers) > 0
        pairs = enumerate(zip(*probes, strict=True))
        return [torch.stack(tensors, int(wide and i == 0)) for i, tensors in pairs]

    def batches(self, x_ND: Tensor, y_NC: Tensor) -> list[Batch]:
        """Make the batches for `train_step`, with embeddings in the type of the products."""
        size = self.shape.batch_size
        return list(zip(x_ND.to(self.product_dtype).split(size), y_NC.split(size), strict=True))

    def train_step(self, batch: Batch, multilabel: bool) -> None:
        """Take one step of Adam."""
        x_ND, y_NC = batch
        learned = [parameter.requires_grad_() for parameter in self.parameters]
        logits_GNC = self._forward(x_ND, self.state, learning=True)
        loss = losses(logits_GNC, y_NC, multilabel).sum()  # so each probe's gradient is its own
        gradients = torch.autograd.grad(loss, learned)
        with torch.no_grad():
            adam(
                learned,
                list(gradients),
                exp_avgs=self.moments[0],
                exp_avg_sqs=self.moments[1],
                max_exp_avg_sqs=[],
                state_steps=self.step_counts,
                fused=True,
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=self.shape.lr,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )

    @torch.no_grad()
    def logits(self, x_ND: Tensor, best: bool = False) -> Tensor:
        """Logits ``[G, N, C]``, float32, of the current states or each probe's best state."""
        state = self.best if best else self.state
        batches = x_ND.split(self.shape.batch_size)
        return torch.cat([self._forward(batch, state, False) for batch in batches], dim=1)

    @torch.no_grad()
    def save_best(self, probes: Sequence[int]) -> None:
        """Save the current state of these probes as their best."""
        index = torch.tensor(probes, dtype=torch.long, device=self.parameters[0].device)
        for best, now, axis in zip(self.best, self.state, self._axes, strict=True):
            if len(probes) == len(self):
                best.copy_(now)
            else:
                best.index_copy_(axis, index, now.index_select(axis, index))

    @torch.no_grad()
    def prune(self, probes: Sequence[int]) -> None:
        """Drop all other probes."""
        index = torch.tensor(probes, device=self.parameters[0].device)

        def chosen(tensors: Sequence[Tensor]) -> list[Tensor]:
            axes = self._axes[: len(tensors)]
            return [t.index_select(axis, index) for t, axis in zip(tensors, axes, strict=True)]

        self.best = chosen(self.best)
        self.moments = [chosen(moment) for moment in self.moments]
        self.parameters = chosen(self.parameters)
        self.means = [mean[index] for mean in self.means]
        self.variances = [variance[index] for variance in self.variances]
        self.dropouts = [self.dropouts[probe] for probe in probes]

    def _forward(self, x_ND: Tensor, state: Sequence[Tensor], learning: bool) -> Tensor:
        *hidden, out_weight, out_bias = state[: len(self.parameters)]
        means = state[len(self.parameters) :]
        variances = means[len(self._layers) :]
        dtype = self.product_dtype if learning else torch.float32
        h_GND = x_ND.expand(len(self), *x_ND.shape)
        for layer in self._layers:
            weight, scale, shift = hidden[HIDDEN_TENSORS * layer :][:HIDDEN_TENSORS]
            if layer == 0:
                z_NGH = product(x_ND, weight.flatten(1), dtype)
            else:
                z_NGH = product(h_GND, weight, dtype).transpose(0, 1).flatten(1)
            z_NGH = nnf.batch_norm(
                z_NGH,
                means[layer].view(-1),
                variances[layer].view(-1),
                scale.flatten(),
                shift.flatten(),
                training=learning,
                momentum=NORM.momentum or 0.0,
                eps=NORM.eps,
            ).view(len(x_ND), len(self), -1)
            if learning:
                z_NGH = self._dropped(z_NGH)
            h_GND = z_NGH.relu_().transpose(0, 1)
        return torch.baddbmm(out_bias[:, None], h_GND, out_weight)

    def _dropped(self, z_NGH: Tensor) -> Tensor:
        if not any(dropout.rate for dropout in self.dropouts):
            return z_NGH
        factors = torch.empty_like(z_NGH)
        for probe, dropout in enumerate(self.dropouts):
            dropout.draw(factors[:, probe])
        return z_NGH * factors


def losses(logits_GNC: Tensor, y_NC: Tensor, multilabel: bool) -> Tensor:
    """Mean cross-entropy of each probe, ``[G]``; binary for multilabel tasks."""
    probes, clips, _ = logits_GNC.shape
    if multilabel:
        y_GNC = y_NC.expand_as(logits_GNC)
        loss = nnf.binary_cross_entropy_with_logits(logits_GNC, y_GNC, reduction="none")
        return loss.mean((1, 2))
    labels = y_NC.argmax(1).repeat(probes)
    loss = nnf.cross_entropy(logits_GNC.flatten(0, 1), labels, reduction="none")
    return loss.view(probes, clips).mean(1)


def product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Product of float32 matrices with factors rounded to `dtype`, including gradients."""
    return a @ b if dtype == torch.float32 else _RoundedProduct.apply(a, b, dtype)


class _RoundedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
        a, b = a.to(dtype), b.to(dtype)
        ctx.save_for_backward(a, b)
        return (a @ b).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        a, b = ctx.saved_tensors
        gradient = gradient.to(a.dtype)
        grad_a = (gradient @ b.mT).float() if ctx.needs_input_grad[0] else None
        grad_b = (a.mT @ gradient).float() if ctx.needs_input_grad[1] else None
        return grad_a, grad_b, None
