"""The depthwise causal convolution over tokens and its SiLU, as shifted multiply-adds.

Shapes: B windows, S tokens, E channels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as nnf

WIDTH = 4  # tokens that the convolution sees


class CausalConv(nn.Module):
    """SiLU of a depthwise causal convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(WIDTH)
        self.weight = nn.Parameter(torch.empty(WIDTH, channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def forward(self, x_BSE: Tensor) -> Tensor:
        """``weight[-1]`` meets the token itself, ``weight[0]`` the one three before."""
        return _ConvolvedSilu.apply(x_BSE, self.weight.to(x_BSE.dtype), self.bias.to(x_BSE.dtype))


def convolve(x_BSE: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The convolution without SiLU and without gradients; a new tensor."""
    out = torch.addcmul(bias, x_BSE, weight[-1])
    for delay in range(1, min(WIDTH, x_BSE.shape[1])):
        out[:, delay:].addcmul_(x_BSE[:, :-delay], weight[-1 - delay])
    return out


class _ConvolvedSilu(torch.autograd.Function):
    """Keeps its input alone; the backward pass convolves again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        return nnf.silu(convolve(x, weight, bias), inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, bias = ctx.saved_tensors
        grad = torch.ops.aten.silu_backward(grad, convolve(x, weight, bias))
        grad_x, grad_weight = grad * weight[-1], torch.zeros_like(weight)
        grad_weight[-1] = (grad * x).sum((0, 1))
        for delay in range(1, min(WIDTH, x.shape[1])):
            later, earlier = grad[:, delay:], x[:, :-delay]
            grad_x[:, :-delay].addcmul_(later, weight[-1 - delay])
            grad_weight[-1 - delay] = (later * earlier).sum((0, 1))
        return grad_x, grad_weight, grad.sum((0, 1))
