"""The causally weighted sums inside the mLSTM cell: its S x S part, few windows at a time.

Shapes: B windows, H heads, N = B H matrices in a stack, S tokens, R query rows, K head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hear_axlstm.ops.onednn import is_traced, matmul

ROWS = 128  # query rows weighted at once: the part right of the causal diagonal is not computed
MODERATE = 64.0  # exp(MODERATE) and products of it are far from the ends of float32
WINDOWS = {"cpu": 8, "cuda": 64}  # at once: bounds the S x S matrices that are held


def weighted_sum(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, running_max: Tensor
) -> tuple[Tensor, Tensor]:
    """u_t = sum_s S_ts v_s and n_t = sum_s S_ts, with S_ts = q_t . k_s exp(a_s - M_t) for s <= t.

    Autograd through the plain form would keep several S x S matrices of every block alive; here
    the backward pass recomputes the weights from its inputs, which are linear in S.

    Args:
        q: queries ``[B, S, H, K]``.
        k: keys, likewise.
        v: values, likewise, all three in one dtype.
        a: log i - F, ``[B, S, H]``, float64 where the device has it.
        running_max: M, at least the running maximum of `a`; likewise.

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
        # d/da_s sums S_ts dS_ts over t, which is k_s . dk_s; likewise M_t with q_t . dq_t.
        grad_a = (grad_k.float() * k.float()).sum(-1)
        grad_max = -(grad_q.float() * q.float()).sum(-1)
        return grad_q, grad_k, grad_v, grad_a.to(a.dtype), grad_max.to(a.dtype)


class _Weights:
    """exp(a_s - M_t) for s <= t, else 0, of some windows.

    Where the exponents are moderate, as they mostly are, the factors exp(r - M_t) and exp(a_s - r)
    go to the queries and the keys: there is no S x S matrix to exponentiate then.

    Args:
        a_BSH, running_max_BSH: as in `weighted_sum`.
        dtype: of the products.
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
        """What the factors leave to do to the scores of some rows, in place."""
        if not self.factored:
            scores_NRS.mul_(self._matrix(rows))
        scores_NRS[..., rows].tril_()
        return scores_NRS

    def _matrix(self, rows: slice) -> Tensor:
        a_BHS, max_BHR = self.a_BSH[:, : rows.stop].mT, self.running_max_BSH[:, rows].mT
        if self.dtype != torch.float32:  # whose own rounding is coarser than float32's here
            a_BHS, max_BHR = a_BHS.float(), max_BHR.float()
        exponents = (a_BHS[:, :, None, :] - max_BHR[..., None]).flatten(0, 1)
        return exponents.to(self.dtype).exp_()  # of later tokens perhaps infinite: masked next


def _are_moderate(spans: Tensor) -> bool:
    """Asked on a CPU only, of values that are there: an accelerator would have to be waited for."""
    is_at_hand = spans.device.type == "cpu" and spans.numel() > 0 and not is_traced(spans)
    return is_at_hand and bool(spans.max() < MODERATE)


def _stack(x_BSHK: Tensor) -> Tensor:
    """Heads of all windows as one stack of dense matrices, ``[B H, S, K]``."""
    return x_BSHK.transpose(1, 2).flatten(0, 1).contiguous()


def _unstack(x: Tensor, like: Tensor) -> Tensor:
    """``[B H, S, ...]`` back to ``[B, S, H, ...]``, with the windows and heads of `like`."""
    return x.unflatten(0, (len(like), -1)).transpose(1, 2)


def _windows(q: Tensor) -> list[slice]:
    """Parts of the batch."""
    size = WINDOWS.get(q.device.type, WINDOWS["cpu"])
    return [slice(start, start + size) for start in range(0, len(q), size)]


def row_blocks(tokens: int) -> list[tuple[slice, slice]]:
    """Blocks of query rows, each with the keys that its last row may see."""
    ends = [min(start + ROWS, tokens) for start in range(0, tokens, ROWS)]
    return [(slice(ROWS * i, end), slice(0, end)) for i, end in enumerate(ends)]
