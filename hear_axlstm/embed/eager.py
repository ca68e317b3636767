"""Methods that `torch.compile` leaves uncompiled.

Compiling them takes minutes and gains nothing over fused weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def eager(function: Callable[P, T]) -> Callable[P, T]:
    """Exclude a function from compilation."""

    @wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        if torch.compiler.is_compiling():
            # Not decorated at import time, which would load the compiler
            return torch.compiler.disable(function)(*arguments, **options)
        return function(*arguments, **options)

    return call
