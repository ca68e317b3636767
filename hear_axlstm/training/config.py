"""Execution settings shared by pretraining and fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import tyro

from hear_axlstm.ops.precision import Precision
from hear_axlstm.options import option


@dataclass(frozen=True)
class RunConfig:
    """Execution settings of a run.

    They change the result by rounding at most, so a resumed run may change all of them.

    Raises:
        ValueError: for an invalid value.
    """

    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "auto"
    """Device: "auto" (CUDA if available, then Apple's MPS, then the CPU), or e.g. "cuda:1"."""
    precision: Precision = "auto"
    """Precision of the encoder in training; "auto" uses bfloat16 if it is faster."""
    threads: Annotated[int | None, option("N")] = None
    """CPU threads (default: PyTorch's choice; several processes share the cores)."""
    log_every: int = 10
    """Steps between lines of the log."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    checkpoint_minutes: float = 10.0
    """Longest time between checkpoints."""
    keep_checkpoints: int = 2
    """Number of recent checkpoints to keep."""
    stop_after_bad_steps: int = 10
    """Stop after this many steps in a row without a finite loss and gradient; checked whenever a
    line is logged."""

    def __post_init__(self) -> None:
        check_positive(
            self,
            "log_every",
            "checkpoint_every",
            "checkpoint_minutes",
            "keep_checkpoints",
            "stop_after_bad_steps",
            optional=("threads",),
        )

    def to_dict(self) -> dict[str, Any]:
        """Every setting as JSON-ready data."""
        return asdict(self)


def check_positive(config: object, *required: str, optional: Iterable[str] = ()) -> None:
    """Check that settings are finite positive numbers; optional ones may be None.

    Raises:
        ValueError: naming the first invalid one.
    """
    for name in required:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name}={getattr(config, name)} must be a number above 0")
    for name in optional:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name}={value} must be a number above 0, or left out")
