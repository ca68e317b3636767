"""How far results may be off: bounds that follow from the case, whatever the processor.

A stable algorithm gives the exact results of inputs that are off by some roundings (Higham,
Accuracy and Stability of Numerical Algorithms, 2002, chapter 1). So the bound is how far the exact
results move when the inputs do: far where a sum nearly cancels, little elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

ROUNDINGS = 32  # of its inputs that an algorithm may amount to
DRAWS = 2


def rounded_anew(x: Tensor, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor in float64 whose elements differ by some roundings of `dtype`."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x.device)
    return x.double() * (1 + ROUNDINGS * torch.finfo(dtype).eps * noise)


def assert_accurate(
    found: Sequence[Tensor],
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Assert that results are as accurate as `dtype` allows.

    Args:
        found: the results to check, of any type.
        function: computes the same results in float64.
        inputs: its arguments.
        dtype: the type in which `found` was computed.
    """
    exact = [y.detach() for y in function(*(x.double() for x in inputs))]
    draws = [function(*(rounded_anew(x, seed, dtype) for x in inputs)) for seed in range(DRAWS)]
    # What is exactly zero is left over from results of this size.
    least = torch.finfo(dtype).eps * max(y.norm().item() for y in exact)
    for index, (ours, theirs) in enumerate(zip(found, exact, strict=True)):
        moved = max((draw[index].detach() - theirs).norm().item() for draw in draws)
        error = (ours.detach().double() - theirs).norm().item()
        assert error <= max(moved, least), f"result {index}: {error:.1e}, bound {moved:.1e}"


def sum_rounding(terms: int) -> float:
    """Relative error of a float32 sum of `terms` positive products, in any order, at most.

    The bound of Higham, section 3.1; the logarithm of a gate may cost it as many roundings again.
    """
    return 2 * terms * torch.finfo(torch.float32).eps
