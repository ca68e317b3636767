"""Names and shapes of a model's tensors, computed without allocating any."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from hear_axlstm.config import ModelConfig
from hear_axlstm.models.pretraining import MaskedPatchModel

Shape = tuple[int, ...]
FIRST = "encoder.blocks.0."


def expected_shapes(config: ModelConfig) -> dict[str, Shape]:
    """The tensors of a pretraining model, of which ``encoder.*`` are those of an embedder.

    Only one block is built, on PyTorch's meta device, since all are alike; settings with a thousand
    blocks cost no more than others.
    """
    with torch.device("meta"):
        model = MaskedPatchModel(replace(config, depth=1))
    shapes: dict[str, Shape] = {}
    for name, tensor in model.state_dict().items():
        numbers = range(config.depth) if name.startswith(FIRST) else (0,)
        shapes |= {
            name.replace(FIRST, f"encoder.blocks.{n}."): tuple(tensor.shape) for n in numbers
        }
    return shapes


def parameters(config: ModelConfig) -> int:
    """Number of parameters, mask token and reconstruction head included."""
    return sum(map(math.prod, expected_shapes(config).values()))
