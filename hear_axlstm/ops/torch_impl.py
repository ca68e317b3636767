"""The PyTorch backend, for any device, with memory-efficient gradients.

Autograd through the plain formulas would keep many large tensors of every block alive. The
functions here store only their inputs; their backward passes recompute the rest.

Shapes: B windows, S tokens, H heads, N = B H matrices in a stack, R query rows, K head size,
E = H K channels, J = K / 4 blocks of a head in the block-diagonal maps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as nnf

from hear_axlstm.ops.contract import CONV_WIDTH, EPS, MAP_WIDTH, NORM_EPS, MixerWeights
from hear_axlstm.ops.matmul import linear, matmul
from hear_axlstm.ops.tracing import is_traced

ROWS = 128  # query rows per block; keys after a block's last row are skipped
MODERATE = 64.0  # exp(MODERATE) and products of it are far from the limits of float32
WINDOWS = {"cpu": 8, "cuda": 64}  # processed at once; bounds the memory of S x S matrices


def quadratic_cell(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, running_max: Tensor, floor: Tensor
) -> Tensor:
    """Hidden states of the cell on any device; see `hear_axlstm.ops.contract.QuadraticCell`."""
    return normalize(*weighted_sum(q, k, v, a, running_max), floor, q.shape[-1])


def normalize(u: Tensor, n: Tensor, floor: Tensor, head_size: int) -> Tensor:
    """Divide u by max(|n|, floor) + eps; u and n still lack the 1 / sqrt(K) of the keys."""
    scale = head_size**-0.5
    normalizer = torch.maximum(n.abs() * scale, floor) + EPS
    return u * (scale / normalizer).to(u.dtype)[..., None]


def weighted_sum(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, running_max: Tensor
) -> tuple[Tensor, Tensor]:
    """u_t = sum_s S_ts v_s and n_t = sum_s S_ts, with S_ts = q_t . k_s exp(a_s - M_t) for s <= t.

    Args:
        q: queries ``[B, S, H, K]``.
        k: keys ``[B, S, H, K]``.
        v: values ``[B, S, H, K]``, in the dtype of q and k.
        a: log i - F, ``[B, S, H]``, float64 if the device supports it.
        running_max: M, at least the running maximum of `a`; ``[B, S, H]``.

    Returns:
        u ``[B, S, H, K]`` in the dtype of v, and n, float32 ``[B, S, H]``.
    """
    return _WeightedSum.apply(q, k, v, a, running_max)


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, a: Tensor, running_max: Tensor
    ) -> tuple[Tensor, Tensor]:
        u, n = torch.empty_like(v), torch.empty_like(a, dtype=torch.float32)
        for some in _windows(q):
            weights = _Weights(a[some], running_max[some], v.dtype)
            q_NSK, k_NSK = _stack(weights.of_rows(q[some])), _stack(weights.of_columns(k[some]))
            v_NSK = _stack(v[some])
            for rows, seen in row_blocks(q.shape[1]):
                scores = weights.apply(matmul(q_NSK[:, rows], k_NSK[:, seen].mT), rows)
                n[some, rows] = _unstack(scores.sum(-1), n[some])
                u[some, rows] = _unstack(matmul(scores, v_NSK[:, seen]), u[some])
        ctx.save_for_backward(q, k, v, a, running_max)
        return u, n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_u: Tensor, grad_n: Tensor) -> tuple[Tensor, ...]:
        q, k, v, a, running_max = ctx.saved_tensors
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for some in _windows(q):
            weights = _Weights(a[some], running_max[some], v.dtype)
            q_NSK, k_NSK = _stack(weights.of_rows(q[some])), _stack(weights.of_columns(k[some]))
            v_NSK, g_NSK = _stack(v[some]), _stack(grad_u[some])
            gn_NS1 = _stack(grad_n[some, ..., None].to(v.dtype))
            dq_NSK, dk_NSK, dv_NSK = (torch.zeros_like(x) for x in (q_NSK, k_NSK, v_NSK))
            for rows, seen in row_blocks(q.shape[1]):
                scores = weights.apply(matmul(q_NSK[:, rows], k_NSK[:, seen].mT), rows)
                dv_NSK[:, seen] += matmul(scores.mT, g_NSK[:, rows])
                grad_scores = matmul(g_NSK[:, rows], v_NSK[:, seen].mT).add_(gn_NS1[:, rows])
                grad_scores = weights.apply(grad_scores, rows)
                dq_NSK[:, rows] = matmul(grad_scores, k_NSK[:, seen])
                dk_NSK[:, seen] += matmul(grad_scores.mT, q_NSK[:, rows])
            grad_q[some] = weights.of_rows(_unstack(dq_NSK, q[some]))
            grad_k[some] = weights.of_columns(_unstack(dk_NSK, k[some]))
            grad_v[some] = _unstack(dv_NSK, v[some])
        # d/da_s sums S_ts dS_ts over t, which is k_s . dk_s; so does M_t with q_t . dq_t.
        grad_a = (grad_k.float() * k.float()).sum(-1)
        grad_max = -(grad_q.float() * q.float()).sum(-1)
        return grad_q, grad_k, grad_v, grad_a.to(a.dtype), grad_max.to(a.dtype)


class _Weights:
    """Weights of some windows: exp(a_s - M_t) for s <= t, else 0.

    If the exponents are moderate, as they usually are, the factors exp(r - M_t) and exp(a_s - r)
    are applied to queries and keys, so that no S x S matrix needs to be exponentiated.

    Args:
        a_BSH, running_max_BSH: as in `weighted_sum`.
        dtype: type of the products.
    """

    def __init__(self, a_BSH: Tensor, running_max_BSH: Tensor, dtype: torch.dtype) -> None:
        self.a_BSH, self.running_max_BSH, self.dtype = a_BSH, running_max_BSH, dtype
        low, high = a_BSH.amin(1, keepdim=True), running_max_BSH.amax(1, keepdim=True)
        self.factored = dtype != torch.float16 and _are_moderate(high - low)
        if self.factored:
            middle_B1H = (low + high) / 2
            self.rows_BSH1 = torch.exp(middle_B1H - running_max_BSH).to(dtype)[..., None]
            self.columns_BSH1 = torch.exp(a_BSH - middle_B1H).to(dtype)[..., None]

    def of_rows(self, x_BSHK: Tensor) -> Tensor:
        """Queries, or their gradients, times their factors."""
        return x_BSHK * self.rows_BSH1 if self.factored else x_BSHK

    def of_columns(self, x_BSHK: Tensor) -> Tensor:
        """Keys, or their gradients, times their factors."""
        return x_BSHK * self.columns_BSH1 if self.factored else x_BSHK

    def apply(self, scores_NRS: Tensor, rows: slice) -> Tensor:
        """Apply the remaining weights to the scores of some rows, in place."""
        if not self.factored:
            scores_NRS.mul_(self._matrix(rows))
        scores_NRS[..., rows].tril_()
        return scores_NRS

    def _matrix(self, rows: slice) -> Tensor:
        a_BHS, max_BHR = self.a_BSH[:, : rows.stop].mT, self.running_max_BSH[:, rows].mT
        if self.dtype != torch.float32:  # its own rounding is coarser than float32's here
            a_BHS, max_BHR = a_BHS.float(), max_BHR.float()
        exponents = (a_BHS[:, :, None, :] - max_BHR[..., None]).flatten(0, 1)
        return exponents.to(self.dtype).exp_()  # may be infinite for later tokens: masked next


def _are_moderate(spans: Tensor) -> bool:
    """Whether all exponents are moderate; checked on a CPU only, since a GPU would have to sync."""
    is_at_hand = spans.device.type == "cpu" and spans.numel() > 0 and not is_traced(spans)
    return is_at_hand and bool(spans.max() < MODERATE)


def _stack(x_BSHK: Tensor) -> Tensor:
    """Stack the heads of all windows as dense matrices, ``[B H, S, K]``."""
    return x_BSHK.transpose(1, 2).flatten(0, 1).contiguous()


def _unstack(x: Tensor, like: Tensor) -> Tensor:
    """Reshape ``[B H, S, ...]`` to ``[B, S, H, ...]``, with the windows and heads of `like`."""
    return x.unflatten(0, (len(like), -1)).transpose(1, 2)


def _windows(q: Tensor) -> list[slice]:
    """Split the batch into parts."""
    size = WINDOWS.get(q.device.type, WINDOWS["cpu"])
    return [slice(start, start + size) for start in range(0, len(q), size)]


def row_blocks(tokens: int) -> list[tuple[slice, slice]]:
    """Blocks of query rows, each with the keys visible to its last row."""
    ends = [min(start + ROWS, tokens) for start in range(0, tokens, ROWS)]
    return [(slice(ROWS * i, end), slice(0, end)) for i, end in enumerate(ends)]


def convolve(x_BSE: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Depthwise causal convolution over tokens, without SiLU or gradients; returns a new tensor.

    ``weight[-1]`` applies to the token itself, ``weight[0]`` to the token three before it.
    """
    out = torch.addcmul(bias, x_BSE, weight[-1])
    for delay in range(1, min(CONV_WIDTH, x_BSE.shape[1])):
        out[:, delay:].addcmul_(x_BSE[:, :-delay], weight[-1 - delay])
    return out


def convolved_silu(x_BSE: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """SiLU of the causal convolution, with gradients: x ``[B, S, E]``, weight ``[4, E]``."""
    return _ConvolvedSilu.apply(x_BSE, weight.to(x_BSE.dtype), bias.to(x_BSE.dtype))


class _ConvolvedSilu(torch.autograd.Function):
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
        for delay in range(1, min(CONV_WIDTH, x.shape[1])):
            later, earlier = grad[:, delay:], x[:, :-delay]
            grad_x[:, :-delay].addcmul_(later, weight[-1 - delay])
            grad_weight[-1 - delay] = (later * earlier).sum((0, 1))
        return grad_x, grad_weight, grad.sum((0, 1))


def gated_norm(h: Tensor, c: Tensor, z: Tensor, scale: Tensor, skip: Tensor) -> Tensor:
    """(norm(h) scale + c skip) SiLU(z), with gradients.

    Args:
        h: hidden states ``[B, S, H, K]``, normalized over K.
        c: convolved input ``[B, S, H, K]``.
        z: pre-activation of the output gate ``[B, S, H, K]``.
        scale: weight of the norm, ``[H, K]``.
        skip: weight of c, ``[H, K]``.
    """
    return _GatedNorm.apply(h, c, z, scale.to(h.dtype), skip.to(h.dtype))


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, c: Tensor, z: Tensor, scale: Tensor, skip: Tensor) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(h, h.shape[-1:], None, None, NORM_EPS)
        ctx.save_for_backward(h, c, z, scale, skip, mean, rstd)
        return torch.addcmul(c * skip, normed, scale).mul_(nnf.silu(z))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        h, c, z, scale, skip, mean, rstd = ctx.saved_tensors
        normed = ((h - mean) * rstd).to(h.dtype)
        grad_z = torch.ops.aten.silu_backward(grad * torch.addcmul(c * skip, normed, scale), z)
        grad = grad * nnf.silu(z)
        grad_scale, grad_skip = (grad * normed).sum((0, 1)), (grad * c).sum((0, 1))
        grad_h, _, _ = torch.ops.aten.native_layer_norm_backward(
            grad * scale, h, h.shape[-1:], mean, rstd, None, None, [True, False, False]
        )
        return grad_h, grad * skip, grad_z, grad_scale, grad_skip


def fused_mixer(
    xz_BSE: Tensor,
    weights: MixerWeights,
    heads: int,
    cell: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    convolve: Callable[[Tensor, Tensor, Tensor], Tensor] = convolve,
) -> Tensor:
    """Compute a block between its projections with fused weights, without gradients.

    Args:
        xz_BSE: the fused up-projection ``[B, S, 2 E]``; its dtype is that of the large products.
        weights: fused weights, float32.
        heads: H.
        cell: maps q, k, v ``[B, S, H, K]`` and the gates' pre-activations ``[B, S, 2 H]`` to h.
        convolve: the causal convolution, which may include earlier tokens.

    Returns:
        ``[B, S, E]`` in the dtype of `xz_BSE`, for the fused down-projection.
    """
    low = xz_BSE.dtype
    x_BSE, z_BSE = xz_BSE.float().chunk(2, dim=-1)
    c_BSE = nnf.silu(convolve(x_BSE, weights.conv, weights.conv_bias), inplace=True)
    gates = linear(c_BSE, weights.gates_c) + linear(x_BSE, weights.gates_x) + weights.gate_bias
    c_BSHK = _by_heads(c_BSE, heads)
    k_BSHK = _by_heads(_map(c_BSE, weights.key), heads)
    v_BSHK = _by_heads(_map(x_BSE, weights.value), heads)
    h_BSHK = cell(c_BSHK.to(low), k_BSHK.to(low), v_BSHK.to(low), gates).float()
    # Layer norm over K, written out because torch's is slow for short rows
    h_BSHK = h_BSHK - h_BSHK.mean(-1, keepdim=True)
    length = torch.linalg.vector_norm(h_BSHK, dim=-1, keepdim=True)
    h_BSHK.mul_(torch.rsqrt(length.square() / h_BSHK.shape[-1] + NORM_EPS))
    h_BSHK.mul_(weights.head_norm).addcmul_(c_BSHK, weights.skip)
    z_BSHK = z_BSE.reshape(h_BSHK.shape)
    return h_BSHK.mul_(nnf.silu(z_BSHK, inplace=True)).flatten(2).to(low)


def _by_heads(x_BSE: Tensor, heads: int) -> Tensor:
    """Interleaved channels as ``[B, S, H, K]``, where each head is a dense matrix in memory."""
    places_BSPHJ = x_BSE.unflatten(-1, (MAP_WIDTH, heads, -1))
    return places_BSPHJ.permute(0, 3, 1, 2, 4).flatten(3).transpose(1, 2)


def _map(x_BSE: Tensor, weight: Tensor) -> Tensor:
    """Apply a block-diagonal map to interleaved channels."""
    inputs = x_BSE.unflatten(-1, (MAP_WIDTH, -1)).unsqueeze(-2).unbind(-3)
    out = inputs[0] * weight[0]
    for x, w in zip(inputs[1:], weight[1:], strict=True):
        out.addcmul_(x, w)
    return out.flatten(-2)
