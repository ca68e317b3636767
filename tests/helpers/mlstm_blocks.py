"""mLSTM blocks to test the compiled ones with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call

from hear_axlstm.config import InputGate, preset
from hear_axlstm.models.mlstm import MLSTMBlock, cell_gates
from hear_axlstm.ops.contract import GateFunction


def lively_block(
    input_gate: InputGate = "exponential", gates: float = 1.0, **settings: int
) -> MLSTMBlock:
    """A block with weights that matter, and pre-activations of the gates of about `gates`."""
    torch.manual_seed(0)
    block = MLSTMBlock(replace(preset("axlstm_tiny"), input_gate=input_gate, **settings))
    block.use_mixer = True
    for parameter in block.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    for gate in (block.igate, block.fgate):
        gate.weight.data.mul_(gates)
        gate.bias.data.mul_(gates)
    return block


def gates_of(block: MLSTMBlock) -> GateFunction:
    """The block's gates as functions of their pre-activations."""
    return partial(cell_gates, input_gate=block.input_gate)


def outputs_of(block: MLSTMBlock) -> Callable[..., list[Tensor]]:
    """The block as a function of tokens and parameters, by PyTorch in float64."""
    plain = copy.deepcopy(block).double()
    plain.use_mixer = False
    names = [name for name, _ in plain.named_parameters()]

    def function(tokens: Tensor, *values: Tensor) -> list[Tensor]:
        return [functional_call(plain, dict(zip(names, values, strict=True)), (tokens,))]

    return function
