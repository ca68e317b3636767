"""Products with a weight that stays the same."""

from __future__ import annotations

import torch
from torch import Tensor

from hear_axlstm.ops.native.library import GROUP, call, has_products, is_there_for
from hear_axlstm.ops.native.memory import Memory
from hear_axlstm.ops.onednn import linear


class Projection:
    """x times the transpose of a weight, which is laid out as products.h reads it where that pays.

    Args:
        weight: ``[S, K]``, float32 or bfloat16.
    """

    def __init__(self, weight: Tensor) -> None:
        self.shape, self.dtype = weight.shape, weight.dtype
        in_word = 4 // weight.element_size()
        fits = weight.shape[0] % GROUP == 0 and weight.shape[1] % in_word == 0
        self.is_laid = weight.device.type == "cpu" and fits and has_products()
        if self.is_laid:  # as [groups, steps, GROUP, in_word]
            weight = weight.unflatten(0, (-1, GROUP)).unflatten(2, (-1, in_word)).transpose(1, 2)
        self._weight = weight.contiguous()

    def __call__(self, x: Tensor, memory: Memory, name: str) -> Tensor:
        """``[..., K]`` -> ``[..., S]``, in the weight's type, perhaps in memory of that name."""
        x = x.to(self.dtype)
        if not self.is_laid:
            return linear(x, self._weight)
        if not is_there_for(x):
            return linear(x, self._weight.transpose(1, 2).reshape(self.shape))
        columns, depth = self.shape
        out = memory.empty(name, x, *x.shape[:-1], columns)
        sizes = x.numel() // depth, depth, columns, torch.get_num_threads()
        call("project", x.contiguous(), self._weight, *sizes, out)
        return out
