"""The compiled products and the sums of the cell against float64."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor

from hear_axlstm.ops import library
from hear_axlstm.ops.cpu_mixer import CellInput, weighted_sum, weighted_sum_backward
from hear_axlstm.ops.library import Sizes, gemm_columns
from hear_axlstm.ops.packed_linear import PackedLinear
from hear_axlstm.ops.workspace import Workspace
from tests.helpers.threads import torch_threads

DTYPES = (torch.float32, torch.bfloat16)

pytestmark = pytest.mark.skipif(
    not library.is_available() and shutil.which("c++") is None, reason="there is no C++ compiler"
)


def rounding(dtype: torch.dtype, terms: int) -> float:
    """Bound of an error relative to the norm: of a random walk in float32, stored in `dtype`.

    Scores of the cell are rounded once more: each time by up to half of eps.
    """
    return terms**0.5 * torch.finfo(torch.float32).eps + torch.finfo(dtype).eps


def error(found: Tensor, exact: Tensor) -> float:
    return ((found.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 251])
@pytest.mark.parametrize(
    ("inputs", "outputs"), [(2, 16), (34, 80), (192, 1152), (576, 192), (1000, 208)]
)
def test_projection(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
    projection = PackedLinear(weight, gemm_columns())
    assert projection.is_packed
    found = projection(x, Workspace(), "out")
    assert found.dtype == dtype
    assert error(found, x.double() @ weight.double().T) < rounding(dtype, inputs)


def test_threads_change_nothing() -> None:
    torch.manual_seed(0)
    x, projection = torch.randn(3, 251, 768), PackedLinear(torch.randn(2304, 768), gemm_columns())
    found = {}
    for count in (1, 3):
        with torch_threads(count):
            found[count] = projection(x, Workspace(), "out")
    assert torch.equal(found[1], found[3])


@pytest.mark.parametrize(("inputs", "outputs"), [(33, 80), (32, 42)])
def test_shapes_that_do_not_fit_go_by_torch(inputs: int, outputs: int) -> None:
    x, weight = torch.randn(4, 9, inputs).bfloat16(), torch.randn(outputs, inputs).bfloat16()
    projection = PackedLinear(weight, gemm_columns())
    assert not projection.is_packed
    found, exact = projection(x, Workspace(), "out"), x.double() @ weight.double().T
    assert error(found, exact) < rounding(torch.bfloat16, inputs)


def cell_input(tokens: int, head_size: int, span: float, dtype: torch.dtype) -> CellInput:
    torch.manual_seed(0)
    c, k, v = torch.randn(3, 8, tokens, head_size).to(dtype).unbind()
    a = span * torch.randn(8, tokens, dtype=torch.float64)
    unused = torch.empty(8, tokens)
    return CellInput(c, k.contiguous(), v.contiguous(), a, a.cummax(1).values, unused)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 17, 129, 251])
@pytest.mark.parametrize("head_size", [20, 144])
@pytest.mark.parametrize("span", [0.0, 5.0, 300.0])  # the last one leaves the range of float32
def test_sums_of_the_cell(tokens: int, head_size: int, span: float, dtype: torch.dtype) -> None:
    given = cell_input(tokens, head_size, span, dtype)
    sizes = Sizes(2, tokens, 4, head_size // 4)
    exact = [x.double().requires_grad_() for x in given[:5]]
    q, k, v, a, running_max = exact
    future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    exponents = (a[:, None, :] - running_max[:, :, None]).masked_fill(future, -torch.inf)
    weights = q @ k.mT * exponents.exp()
    expected: tuple[Tensor, ...] = (weights @ v, weights.sum(-1))
    sums = weighted_sum(sizes, given, Workspace())
    d_u, d_n = torch.randn(sums[0].shape).to(dtype), torch.randn(sums[1].shape)
    gradients = weighted_sum_backward(sizes, given, d_u, d_n)
    expected += torch.autograd.grad(expected, exact, [d_u.double(), d_n.double()])
    for ours, theirs in zip((*sums, *gradients), expected, strict=True):
        assert ours.isfinite().all()
        assert error(ours, theirs) < rounding(dtype, head_size + tokens)


def test_threads_change_no_sum_of_the_cell() -> None:
    given, found = cell_input(251, 288, 1.0, torch.float32), {}
    for count in (1, 3):
        with torch_threads(count):
            sums = weighted_sum(Sizes(2, 251, 4, 72), given, Workspace())
            gradients = weighted_sum_backward(Sizes(2, 251, 4, 72), given, given.v, sums[1])
            found[count] = (*sums, *gradients)
    assert all(torch.equal(one, three) for one, three in zip(found[1], found[3], strict=True))
