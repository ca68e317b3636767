"""What follows the cell inside an mLSTM block: head norm, skip of the convolved input, output gate.

Shapes: B windows, S tokens, H heads, K head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as nnf


def gated(h: Tensor, c: Tensor, z: Tensor, scale: Tensor, skip: Tensor, eps: float) -> Tensor:
    """(norm(h) scale + c skip) SiLU(z), with gradients.

    Autograd through the plain form would keep every product; here the backward pass computes them
    again from the three inputs.

    Args:
        h: hidden states ``[B, S, H, K]``, normalized over K.
        c: convolved input, likewise.
        z: pre-activation of the gate, likewise.
        scale: of the norm, ``[H, K]``.
        skip: how much of c passes by the cell, ``[H, K]``.
        eps: added to the variance.
    """
    return _Gated.apply(h, c, z, scale.to(h.dtype), skip.to(h.dtype), eps)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, c: Tensor, z: Tensor, scale: Tensor, skip: Tensor, eps: float
    ) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(h, h.shape[-1:], None, None, eps)
        ctx.save_for_backward(h, c, z, scale, skip, mean, rstd)
        return torch.addcmul(c * skip, normed, scale).mul_(nnf.silu(z))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, c, z, scale, skip, mean, rstd = ctx.saved_tensors
        normed = ((h - mean) * rstd).to(h.dtype)
        grad_z = torch.ops.aten.silu_backward(grad * torch.addcmul(c * skip, normed, scale), z)
        grad = grad * nnf.silu(z)
        grad_scale, grad_skip = (grad * normed).sum((0, 1)), (grad * c).sum((0, 1))
        grad_h, _, _ = torch.ops.aten.native_layer_norm_backward(
            grad * scale, h, h.shape[-1:], mean, rstd, None, None, [True, False, False]
        )
        return grad_h, grad * skip, grad_z, grad_scale, grad_skip, None
