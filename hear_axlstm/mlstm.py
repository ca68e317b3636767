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
ACCELERATOR_WINDOWS = 64  # windows at once where there is no cache to fit in
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
    """All hidden states at once: quadratic in S, meant for short windows.

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
    """h from q, k, v and the gates' vectors, few windows at a time so that S x S stays in cache.

    Autograd through the plain form would keep several S x S matrices of every block alive; here
    the backward pass recomputes the weights from what was saved, which is linear in S.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, a: Tensor, running_max: Tensor, floor: Tensor
    ) -> Tensor:
        h, n = torch.empty_like(v), torch.empty_like(floor)
        for some in _windows(q):
            q_BHSK, k_BHSK, v_BHSK, h_BHSK = (x[some].transpose(1, 2) for x in (q, k, v, h))
            for rows, seen in _row_blocks(q.shape[1]):
                weights = _weights(a[some, seen], running_max[some, rows], rows.start).to(v.dtype)
                scores = (q_BHSK[:, :, rows] @ k_BHSK[:, :, seen].mT).mul_(weights)
                n[some, rows] = scores.sum(-1, dtype=torch.float32).transpose(1, 2)
                h_BHSK[:, :, rows] = scores @ v_BHSK[:, :, seen]
        scale = q.shape[-1] ** -0.5
        n.mul_(scale)
        h.mul_((scale / _normalizer(n, floor))[..., None])
        ctx.save_for_backward(q, k, v, a, running_max, floor, h, n)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor, ...]:
        q, k, v, a, running_max, floor, h, n = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        normalizer = _normalizer(n, floor)
        grad_normalizer = -(grad_h.float() * h.float()).sum(-1) / normalizer
        by_sum = n.abs() > floor
        grad_n = torch.where(by_sum, grad_normalizer * n.sign(), 0.0)
        grad_u = (grad_h / normalizer[..., None]).to(v.dtype)  # u = sum_s S_ts v_s
        grads = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for some in _windows(q):
            q_BHSK, k_BHSK, v_BHSK, g_BHSK, dq_BHSK, dk_BHSK, dv_BHSK = (
                x[some].transpose(1, 2) for x in (q, k, v, grad_u, *grads)
            )
            for rows, seen in _row_blocks(q.shape[1]):
                weights = _weights(a[some, seen], running_max[some, rows], rows.start)
                weights = weights.mul_(scale).to(v.dtype)
                scores = (q_BHSK[:, :, rows] @ k_BHSK[:, :, seen].mT).mul_(weights)
                dv_BHSK[:, :, seen] += scores.mT @ g_BHSK[:, :, rows]
                grad_scores = g_BHSK[:, :, rows] @ v_BHSK[:, :, seen].mT
                grad_scores += grad_n[some, rows].transpose(1, 2)[..., None]
                grad_scores *= weights
                dq_BHSK[:, :, rows] = grad_scores @ k_BHSK[:, :, seen]
                dk_BHSK[:, :, seen] += grad_scores.mT @ q_BHSK[:, :, rows]
        grad_q, grad_k, grad_v = grads
        # d/da_s sums S_ts dS_ts over t, which is k_s . dk_s; likewise M_t with q_t . dq_t.
        grad_a = (grad_k.float() * k.float()).sum(-1)
        grad_max = -(grad_q.float() * q.float()).sum(-1)
        grad_floor = torch.where(by_sum, 0.0, grad_normalizer)
        return grad_q, grad_k, grad_v, grad_a.to(a.dtype), grad_max.to(a.dtype), grad_floor


def _windows(q: Tensor) -> list[slice]:
    """Parts of the batch: single windows on a CPU, where its cache is what counts."""
    size = 1 if q.device.type == "cpu" else ACCELERATOR_WINDOWS
    return [slice(start, start + size) for start in range(0, len(q), size)]


def _row_blocks(tokens: int) -> list[tuple[slice, slice]]:
    """Blocks of query rows, each with the keys that its last row may see."""
    ends = [min(start + ROWS, tokens) for start in range(0, tokens, ROWS)]
    return [(slice(ROWS * i, end), slice(0, end)) for i, end in enumerate(ends)]


def _weights(a_BSH: Tensor, running_max_BRH: Tensor, first_row: int) -> Tensor:
    """exp(a_s - M_t) for s <= t, else 0: float32 ``[B, H, R, S]`` for R rows from the first on."""
    a_BHS, max_BHR = a_BSH.transpose(1, 2), running_max_BRH.transpose(1, 2)
    return (a_BHS[:, :, None, :] - max_BHR[..., None]).float().exp_().tril_(first_row)


def _normalizer(n: Tensor, floor: Tensor) -> Tensor:
    """max(|n_t|, exp(-m_t)) + eps."""
    return torch.maximum(n.abs(), floor).add_(EPS)
