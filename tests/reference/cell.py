"""The cell's weighted sum by its definition in float64, and how far a backend is from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from hear_axlstm.models import mlstm
from hear_axlstm.ops.contract import EPS

NAMES = ("q", "k", "v", "a", "running_max", "floor")


def definition(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, running_max: Tensor, floor: Tensor
) -> Tensor:
    """The weighted sum with every matrix materialized, in float64 and left to autograd."""
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    a, running_max, floor = (x.double().transpose(1, 2) for x in (a, running_max, floor))
    past = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()
    exponents = (a[..., None, :] - running_max[..., None]).masked_fill(~past, -torch.inf)
    scores = q @ k.mT * q.shape[-1] ** -0.5 * exponents.exp()
    normalizer = torch.maximum(scores.sum(-1).abs(), floor) + EPS
    return (scores @ v / normalizer[..., None]).transpose(1, 2)


def inputs(
    shape: tuple[int, int, int, int],
    gate: float = 1.0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> list[Tensor]:
    """q, k, v, and the gates' vectors for pre-activations uniform within +-gate."""
    generator = torch.Generator().manual_seed(shape[1])
    qkv = [torch.randn(shape, generator=generator).to(dtype) for _ in range(3)]
    raw = [(torch.rand(shape[:3], generator=generator) * 2 - 1) * gate for _ in range(2)]
    log_i, log_f = (x.double() for x in mlstm.log_gates(raw[0], raw[1], "exponential"))
    a = log_i - log_f.cumsum(1)
    running_max = a.cummax(1).values
    floor = torch.exp(-(log_f.cumsum(1) + running_max)).float()
    return [x.to(device).requires_grad_() for x in (*qkv, a, running_max, floor)]


def errors(leaves: list[Tensor], form: Callable[..., Tensor]) -> dict[str, float]:
    """Of h and of all gradients, relative to the largest value of each."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(leaves[0].shape, generator=generator).to(leaves[0].device)
    results = []
    for cell in (form, definition):
        h = cell(*leaves)
        gradients = torch.autograd.grad((h * weight.to(h.dtype)).sum(), leaves)
        results.append((h, *gradients))
    pairs = zip(("h", *NAMES), *results, strict=True)
    return {name: _relative(found, expected) for name, found, expected in pairs}


def largest(values: Iterable[float]) -> float:
    """The largest value; NaN if one is NaN, which `max` would skip, or if there are none."""
    return max(values, key=lambda value: (math.isnan(value), value), default=math.nan)


def _relative(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).abs().max() / expected.abs().max()).item()
