"""Matrix products with the fastest available library.

On x86, torch multiplies float32 matrices with MKL, which does not use AVX-512 on AMD processors;
oneDNN, also part of torch, does. On Intel processors, and without AVX-512, MKL is at least as
fast. `python -m benchmarks` prints both rates. Everything else is left to torch.

Shapes: N matrices in a stack, R rows, K columns of the left and rows of the right factor.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as nnf

from hear_axlstm.ops.fastest import is_faster, square
from hear_axlstm.ops.tracing import is_traced

FEW_ROWS = 512  # for a stack of matrices up to this size, a single call is as fast
SINGLE_ROWS = 8  # up to this number, oneDNN spends more time on reordering than on the product


@cache
def onednn_is_fastest() -> bool:
    """Whether oneDNN multiplies float32 matrices faster than torch's default, MKL, does."""
    has_avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    if not (has_avx512 and torch.backends.mkldnn.is_available()):
        return False
    x = square(torch.float32)
    return is_faster(lambda: _by_onednn(x, x), lambda: x @ x)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Differentiable product of two matrices or two stacks of matrices.

    Args:
        a: ``[R, K]`` or ``[N, R, K]``.
        b: ``[K, S]`` or ``[N, K, S]``, of the same dtype.
    """
    if not _is_for_onednn(a):  # first: an exported graph must not branch on the number of rows
        return a @ b
    few = a.ndim == 3 and a.shape[1] < FEW_ROWS and b.shape[2] <= 64
    if few or a.shape[-2] <= SINGLE_ROWS:
        return a @ b
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        return _Matmul.apply(a, b)
    return _by_onednn(a, b)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` for x ``[..., in]``, weight ``[out, in]``, bias ``[out]``."""
    if not _is_for_onednn(x) or x.dtype != weight.dtype:
        return nnf.linear(x, weight, bias)
    out = matmul(x.reshape(-1, x.shape[-1]), weight.mT).view(*x.shape[:-1], len(weight))
    return out if bias is None else out + bias


def fixed_weight(weight: Tensor) -> Tensor:
    """Copy a weight ``[out, in]`` that does not change, in the memory layout fastest for `linear`.

    MKL repacks a weight stored by rows on every call, which costs most with few tokens.
    """
    by_mkl = weight.dtype == torch.float32 and not onednn_is_fastest()
    return weight.mT.contiguous().mT if by_mkl else weight.contiguous()


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


def _is_for_onednn(x: Tensor) -> bool:
    return (
        not is_traced(x)
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch._C._get_mkldnn_enabled()
        and not torch.is_autocast_enabled("cpu")
        and onednn_is_fastest()
    )


def _by_onednn(a: Tensor, b: Tensor) -> Tensor:
    if not (a.numel() and b.numel()):
        return a @ b
    # This operator, which torch.compile emits, takes its second factor transposed. Any strides
    # work, but it is slow unless that factor is dense, by rows or by columns.
    product = torch.ops.mkldnn._linear_pointwise.default
    rows, columns = b.shape[-2:]
    if b.stride()[-2:] not in ((columns, 1), (1, rows)):
        b = b.contiguous()
    if a.ndim == 2:
        return product(a, b.mT, None, "none", [], "")
    pairs = zip(a.unbind(), b.mT.unbind(), strict=True)
    return torch.stack([product(x, y, None, "none", [], "") for x, y in pairs])
