"""The compiled part of inference against the same in PyTorch, and against the cell's definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hear_axlstm import native
from hear_axlstm.blocks import MLSTMBlock
from hear_axlstm.config import InputGate, preset
from hear_axlstm.inference import FoldedBlock

TINY = preset("axlstm_tiny")

pytestmark = pytest.mark.skipif(native.library() is None, reason="there was no C++ compiler")


def folded(
    dtype: torch.dtype, input_gate: InputGate = "exponential", gates: float = 1.0
) -> FoldedBlock:
    """A block with weights that matter, and pre-activations of the gates of about `gates`."""
    torch.manual_seed(0)
    block = MLSTMBlock(TINY, reverse=False)
    block.input_gate = input_gate
    for parameter in block.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    for gate in (block.input_gate_map, block.forget_gate_map):
        gate.weight.data.mul_(gates)
        gate.bias.data.mul_(gates)
    return FoldedBlock(block, dtype)


@torch.no_grad()
def both(block: FoldedBlock, tokens: int) -> tuple[Tensor, Tensor]:
    normed = torch.randn(3, tokens, TINY.dim).to(block.up.dtype)
    return block._mix_natively(normed).float(), block._mix(normed).float()


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 127, 128, 129, 251])
@pytest.mark.parametrize("input_gate", ["exponential", "sigmoid"])
def test_same_as_pytorch(tokens: int, input_gate: InputGate) -> None:
    found, expected = both(folded(torch.float32, input_gate), tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_strong_gates() -> None:
    found, expected = both(folded(torch.float32, gates=30.0), 251)
    error = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert error.median() < 1e-5 and error.max() < 2e-3  # where the normalizer is near zero


def test_bfloat16_is_close() -> None:
    found, expected = both(folded(torch.bfloat16), 251)
    exact, _ = both(folded(torch.float32), 251)
    assert (found - exact).norm() < 1.5 * (expected - exact).norm()


def test_weights_of_any_span() -> None:
    """exp(a_s - M_t) for s <= t, also where the exponents leave float32."""
    torch.manual_seed(0)
    block = folded(torch.float32, gates=200.0)
    xz = torch.randn(2, 40, 2 * block.down.shape[1])
    names = ("conv", "conv_bias", "key", "value", "gates_c", "gates_x", "gate_bias")
    given = native.before_cell(xz, block.heads, False, [getattr(block, name) for name in names])
    assert given.a.max() - given.a.min() > 200
    exponents = given.a[:, None, :] - given.running_max[:, :, None]
    scores = torch.randn(8, 40, 40)
    expected = scores.double() * exponents.exp().tril()
    sums = native.weigh(scores, 0, given)
    torch.testing.assert_close(scores, expected.float(), rtol=1e-5, atol=1e-30)
    torch.testing.assert_close(sums, expected.sum(-1).float(), rtol=1e-4, atol=1e-4)
