"""Tensors that PyTorch traces or transforms instead of computing with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def is_traced(x: Tensor) -> bool:
    """Whether operations on x are traced or faked, so that torch's own must be used."""
    is_plain = type(x) in (Tensor, nn.Parameter)  # a FakeTensor is not
    return not is_plain or torch.compiler.is_compiling() or torch.jit.is_tracing()


def check_storage(x: Tensor, name: str) -> None:
    """Raise TypeError for a tensor wrapped by `torch.func`, as in grad or vmap."""
    try:
        x.data_ptr()
    except RuntimeError as error:
        raise TypeError(
            f"{name}: a tensor without storage, as passed by torch.func: use the model "
            "unfused (model.unfuse())"
        ) from error
