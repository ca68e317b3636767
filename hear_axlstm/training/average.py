"""An exponential moving average of the weights, used as the final weights of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hear_axlstm.models.tensor_names import file_parameters


class WeightAverage:
    """Average of a model's parameters over its steps.

    Early averages forget faster, by (1 + step) / (10 + step), so that the random initial weights
    do not linger.

    Args:
        model: its parameters are averaged.
        decay: weight of the past in each step, below 1.

    Attributes:
        tensors: the average of each parameter, by its name in files.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.tensors = {name: p.detach().clone() for name, p in file_parameters(model)}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the weights after a step, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        parameters = dict(file_parameters(self.model))
        weights: list[Tensor] = [parameters[name] for name in self.tensors]
        torch._foreach_lerp_(list(self.tensors.values()), weights, 1.0 - decay)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from tensors of a checkpoint."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Temporarily replace the model's weights with the average."""
        own = {name: p.detach().clone() for name, p in file_parameters(self.model)}
        self._copy(self.tensors)
        try:
            yield
        finally:
            self._copy(own)

    @torch.no_grad()
    def _copy(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in file_parameters(self.model):
            parameter.copy_(tensors[name])
