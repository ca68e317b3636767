"""The mLSTM cell as pure functions (paper equations 1-3, in the stabilized form of xLSTM).

The recurrence  C_t = f_t C_{t-1} + i_t v_t k_t^T,  n_t = f_t n_{t-1} + i_t k_t,
h_t = C_t q_t / max(|n_t^T q_t|, 1)  unrolls to a causally weighted sum over the past,

    h_t = sum_s S_ts v_s / (max(|sum_s S_ts|, exp(-m_t)) + eps),
    S_ts = (q_t . k_s / sqrt(K)) exp(D_ts - m_t),   D_ts = F_t - F_s + log i_s   for s <= t,

with F the running sum of log f and m_t = max_s D_ts, which keeps every exponent at or below zero.
With a_s = log i_s - F_s and M_t its running maximum, D_ts - m_t is just a_s - M_t: the weights
need one subtraction and one exponential, and the stabilizer is m_t = F_t + M_t.

Shapes: B windows, H heads, S tokens, K head size. The output gate lives in the block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as nnf

from hear_axlstm.config import InputGate

EPS = 1e-6  # added to the normalizer
ROWS = 128  # query rows weighted at once: the part right of the causal diagonal is not computed


def log_gates(
    input_BSH: Tensor, forget_BSH: Tensor, input_gate: InputGate
) -> tuple[Tensor, Tensor]:
    """Logarithms of the input and forget gate from their pre-activations.

    The forget gate is a sigmoid; the input gate an exponential (equation 7) or, in the paper's
    ablation (Table 5), a sigmoid.
    """
    log_i = input_BSH if input_gate == "exponential" else nnf.logsigmoid(input_BSH)
    return log_i, nnf.logsigmoid(forget_BSH)


def parallel(q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor) -> Tensor:
    """All hidden states at once: quadratic in S, the fastest form for short windows.

    Args:
        q: queries ``[B, S, H, K]``.
        k: keys, likewise, not yet divided by sqrt(K).
        v: values, likewise, all three in one dtype.
        log_i: logarithm of the input gate, float ``[B, S, H]``.
        log_f: logarithm of the forget gate, likewise.

    Returns:
        h ``[B, S, H, K]`` in the dtype of v.
    """
    # Sums of log f over a window can reach thousands while their differences decide: float32
    # would lose the third digit of those. Only these small vectors are held in float64.
    exact = torch.float32 if q.device.type == "mps" else torch.float64
    total_f = log_f.to(exact).cumsum(dim=1)
    a = log_i.to(exact) - total_f
    running_max = a.cummax(dim=1).values
    floor = torch.exp(-(total_f + running_max)).float()
    return _WeightedSum.apply(q, k, v, a, running_max, floor)


class _WeightedSum(torch.autograd.Function):
    """h from q, k, v and the gates' vectors, one window at a time so that S x S stays in cache.

    Autograd through the plain form would keep several S x S matrices of every block alive; here
    the backward pass recomputes the weights from what was saved, which is linear in S.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, a: Tensor, running_max: Tensor, floor: Tensor
    ) -> Tensor:
        h = torch.empty_like(v)
        n = torch.empty_like(floor)
        for b in range(len(q)):
            q_HSK, k_HSK, v_HSK, h_HSK = (x[b].transpose(0, 1) for x in (q, k, v, h))
            for rows, seen in _row_blocks(q.shape[1]):
                weights = _weights(a[b], running_max[b], rows, seen).to(v.dtype)
                scores = (q_HSK[:, rows] @ k_HSK[:, seen].mT).mul_(weights)
                n[b, rows] = scores.sum(-1, dtype=torch.float32).mul_(q.shape[-1] ** -0.5).T
                h_HSK[:, rows] = scores @ v_HSK[:, seen]
        normalizer = torch.maximum(n.abs(), floor).add_(EPS)
        h.mul_((q.shape[-1] ** -0.5 / normalizer)[..., None])
        ctx.save_for_backward(q, k, v, a, running_max, floor, h, n)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor, ...]:
        q, k, v, a, running_max, floor, h, n = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        normalizer = torch.maximum(n.abs(), floor).add_(EPS)
        grad_normalizer = -(grad_h.float() * h.float()).sum(-1) / normalizer
        by_sum = n.abs() > floor
        grad_n = torch.where(by_sum, grad_normalizer * n.sign(), 0.0)
        grad_u = (grad_h / normalizer[..., None]).to(v.dtype)  # u = sum_s S_ts v_s
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for b in range(len(q)):
            q_HSK, k_HSK, v_HSK, g_HSK = (x[b].transpose(0, 1) for x in (q, k, v, grad_u))
            grad_q_HSK, grad_k_HSK, grad_v_HSK = (
                x[b].transpose(0, 1) for x in (grad_q, grad_k, grad_v)
            )
            for rows, seen in _row_blocks(q.shape[1]):
                weights = _weights(a[b], running_max[b], rows, seen).mul_(scale).to(v.dtype)
                scores = (q_HSK[:, rows] @ k_HSK[:, seen].mT).mul_(weights)
                grad_v_HSK[:, seen] += scores.mT @ g_HSK[:, rows]
                grad_scores = g_HSK[:, rows] @ v_HSK[:, seen].mT
                grad_scores += grad_n[b, rows].T[..., None]
                grad_scores *= weights
                grad_q_HSK[:, rows] = grad_scores @ k_HSK[:, seen]
                grad_k_HSK[:, seen] += grad_scores.mT @ q_HSK[:, rows]
        # d/da_s sums S_ts dS_ts over t, which is k_s . dk_s; likewise M_t with q_t . dq_t.
        grad_a = (grad_k.float() * k.float()).sum(-1)
        grad_max = -(grad_q.float() * q.float()).sum(-1)
        grad_floor = torch.where(by_sum, 0.0, grad_normalizer)
        return grad_q, grad_k, grad_v, grad_a.to(a.dtype), grad_max.to(a.dtype), grad_floor


def _row_blocks(tokens: int) -> list[tuple[slice, slice]]:
    """Blocks of query rows, each with the keys that its last row may see."""
    starts = range(0, tokens, ROWS)
    return [(slice(s, min(s + ROWS, tokens)), slice(0, min(s + ROWS, tokens))) for s in starts]


def _weights(a_SH: Tensor, running_max_SH: Tensor, rows: slice, seen: slice) -> Tensor:
    """exp(a_s - M_t) for s <= t, else 0: float32 ``[H, rows, seen]``."""
    log_weights = a_SH[seen].T[:, None, :] - running_max_SH[rows].T[:, :, None]
    return log_weights.float().exp_().tril_(rows.start)
