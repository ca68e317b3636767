"""Whether PyTorch traces an operation instead of computing it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def is_traced(x: Tensor) -> bool:
    """Whether operations on x are traced or faked, so that torch's own must be used."""
    is_plain = type(x) in (Tensor, nn.Parameter)  # a FakeTensor is not
    return not is_plain or torch.compiler.is_compiling() or torch.jit.is_tracing()
