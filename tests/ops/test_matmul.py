"""Products by oneDNN or MKL against torch's own in float64."""

import pytest
import torch
from torch import Tensor

from hear_axlstm.ops.matmul import linear, matmul


def factors(*shape: int) -> tuple[Tensor, Tensor]:
    """Leading sizes, then rows, inner size and columns."""
    *stack, rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(*stack, rows, inner, generator=generator)
    return a, torch.randn(*stack, inner, columns, generator=generator)


@torch.no_grad()
def assert_product(found: Tensor, a: Tensor, b: Tensor) -> None:
    """Assert that `found` is ``a @ b`` in float32, whatever the order in which terms are added.

    Then its error is at most n eps |a| @ |b| for sums of n terms (Higham, Accuracy and Stability of
    Numerical Algorithms, 2002, section 3.1).
    """
    a, b = a.double(), b.double()
    bound = a.shape[-1] * torch.finfo(torch.float32).eps * (a.abs() @ b.abs())
    assert ((found - a @ b).abs() <= bound).all()


@pytest.mark.parametrize(
    "shape", [(5, 7, 3), (1, 1, 1), (251, 192, 1152), (4, 600, 48, 48), (4, 251, 144, 251)]
)
def test_products_and_gradients(shape: tuple[int, ...]) -> None:
    a, b = (x.requires_grad_() for x in factors(*shape))
    found = matmul(a, b)
    weight = torch.randn(found.shape)
    grad_a, grad_b = torch.autograd.grad((found * weight).sum(), (a, b))
    assert_product(found, a, b)
    assert_product(grad_a, weight, b.mT)
    assert_product(grad_b, a.mT, weight)


@pytest.mark.parametrize(
    "view",
    [
        lambda a, b: (a.mT.contiguous().mT, b.mT.contiguous().mT),
        lambda a, b: (torch.stack([a, a], -1)[..., 0], torch.stack([b, b], -1)[..., 0]),
        lambda a, b: (
            torch.cat([a, a], -1)[..., : a.shape[-1]],
            torch.cat([b, b], -1).chunk(2, -1)[1],
        ),
        lambda a, b: (a[..., :1, :].expand_as(a), b[..., :1].expand_as(b)),
        lambda a, b: (a[..., :0, :], b),
        lambda a, b: (a[..., :0], b[..., :0, :]),
    ],
    ids=["transposed", "every second", "slices", "expanded", "no rows", "nothing to add"],
)
@pytest.mark.parametrize("stack", [(), (3,)])
def test_any_strides(view, stack: tuple[int, ...]) -> None:  # type: ignore[no-untyped-def]
    a, b = view(*factors(*stack, 70, 65, 66))
    assert_product(matmul(a, b), a, b)


def test_autocast_decides_as_for_torch() -> None:
    x, weight = torch.randn(6, 8), torch.randn(4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    assert linear(x, weight, torch.ones(4)).dtype == torch.float32


@pytest.mark.parametrize("shape", [(8,), (0, 8), (0, 3, 8), (2, 0, 8), (1, 8)])
def test_linear_of_few_rows_and_of_none(shape: tuple[int, ...]) -> None:
    x, weight = torch.randn(shape), torch.randn(4, 8)
    found = linear(x, weight)
    assert found.shape == torch.nn.functional.linear(x, weight).shape
    assert_product(found, x, weight.mT)


def test_factors_of_two_types_are_refused_as_by_torch() -> None:
    with pytest.raises(RuntimeError, match="same dtype"):
        linear(torch.randn(20, 8), torch.randn(4, 8).bfloat16())


def test_linear_takes_any_leading_axes_and_a_bias() -> None:
    x, weight, bias = torch.randn(2, 3, 5, 8), torch.randn(4, 8), torch.randn(4)
    with_ones = torch.cat([x, torch.ones(2, 3, 5, 1)], dim=-1)
    assert_product(linear(x, weight, bias), with_ones, torch.cat([weight, bias[:, None]], 1).mT)
