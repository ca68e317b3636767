"""Scratch memory of the operations without gradients."""

from __future__ import annotations

import torch
from torch import Tensor


class Workspace:
    """Reusable scratch tensors by name; avoids page faults on newly allocated memory.

    For one caller, without gradients. A tensor is valid until its name is requested again.
    """

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def empty(
        self, name: str, *shape: int, like: Tensor, dtype: torch.dtype | None = None
    ) -> Tensor:
        """A tensor of this shape on the device of `like`, in its dtype unless `dtype` is given."""
        dtype = dtype or like.dtype
        tensor = self._tensors.get(name)
        if tensor is None or (tensor.shape, tensor.dtype) != (shape, dtype):
            with torch.inference_mode(False):  # usable in any mode later
                tensor = self._tensors[name] = like.new_empty(shape, dtype=dtype)
        return tensor
