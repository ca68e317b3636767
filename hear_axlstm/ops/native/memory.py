"""Memory that blocks, one after the other, use again."""

from __future__ import annotations

import torch
from torch import Tensor


class Memory:
    """Tensors by name: pages that come fresh from the system can cost more than what fills them.

    For one thread, without gradients; what a name stands for holds until it is asked for again.
    """

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def empty(
        self, name: str, like: Tensor, *shape: int, dtype: torch.dtype | None = None
    ) -> Tensor:
        """A tensor of that shape, of the type (but for `dtype`) and on the device of `like`."""
        dtype = dtype or like.dtype
        tensor = self._tensors.get(name)
        if tensor is None or (tensor.shape, tensor.dtype) != (shape, dtype):
            tensor = self._tensors[name] = like.new_empty(shape, dtype=dtype)
        return tensor
