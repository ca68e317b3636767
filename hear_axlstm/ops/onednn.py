"""Matrix products by the fastest library at hand.

On x86 processors torch multiplies float32 matrices by MKL, which does not use AVX-512 on those of
AMD; oneDNN, which is also inside torch and multiplies bfloat16, does. `python -m benchmarks`
prints both rates. Everything else is left to torch.

Shapes: N matrices in a stack, R rows, K columns of the left and rows of the right factor.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as nnf

FEW_ROWS = 512  # in a stack of so small matrices, one call for all of them is as fast
SINGLE_ROWS = 8  # for so few, oneDNN spends more on laying out the other factor than on the product
X86 = platform.machine().lower() in ("x86_64", "amd64")


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Product, with gradients, of two matrices or of two stacks of equally many.

    Args:
        a: ``[R, K]`` or ``[N, R, K]``.
        b: ``[K, S]`` or ``[N, K, S]``, of the same type.
    """
    if not _is_for_onednn(a):  # first, for an exported graph must not ask how many rows there are
        return a @ b
    few = a.ndim == 3 and a.shape[1] < FEW_ROWS and b.shape[2] <= 64
    if few or a.shape[-2] <= SINGLE_ROWS:
        return a @ b
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        return _Matmul.apply(a, b)
    return _by_onednn(a, b)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `torch.nn.functional.linear`: x ``[..., K]``, weight ``[S, K]``, bias ``[S]``."""
    if not _is_for_onednn(x) or x.dtype != weight.dtype:
        return nnf.linear(x, weight, bias)
    out = matmul(x.reshape(-1, x.shape[-1]), weight.mT).view(*x.shape[:-1], len(weight))
    return out if bias is None else out + bias


class _Matmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return _by_onednn(a, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        grad_a = _by_onednn(grad, b.mT) if ctx.needs_input_grad[0] else None
        grad_b = _by_onednn(a.mT, grad) if ctx.needs_input_grad[1] else None
        return grad_a, grad_b


def is_traced(x: Tensor) -> bool:
    """Whether operations on x are recorded or only pretended: then torch's own are wanted."""
    is_plain = type(x) in (Tensor, nn.Parameter)  # a FakeTensor is not
    return not is_plain or torch.compiler.is_compiling() or torch.jit.is_tracing()


def _is_for_onednn(x: Tensor) -> bool:
    return (
        X86
        and not is_traced(x)
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and torch._C._get_mkldnn_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def _by_onednn(a: Tensor, b: Tensor) -> Tensor:
    if not (a.numel() and b.numel()):
        return a @ b
    # This operator, which torch.compile emits, takes its second factor transposed. Any strides are
    # right, but it is slow unless that factor is dense, by rows or by columns.
    product = torch.ops.mkldnn._linear_pointwise.default
    rows, columns = b.shape[-2:]
    if b.stride()[-2:] not in ((columns, 1), (1, rows)):
        b = b.contiguous()
    if a.ndim == 2:
        return product(a, b.mT, None, "none", [], "")
    pairs = zip(a.unbind(), b.mT.unbind(), strict=True)
    return torch.stack([product(x, y, None, "none", [], "") for x, y in pairs])
