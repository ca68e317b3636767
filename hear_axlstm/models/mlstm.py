"""The mLSTM cell as pure functions (paper equations 1-3, in the stabilized form of xLSTM).

The recurrence  C_t = f_t C_{t-1} + i_t v_t k_t^T,  n_t = f_t n_{t-1} + i_t k_t,
h_t = C_t q_t / max(|n_t^T q_t|, 1)  unrolls to a causally weighted sum over the past,

    h_t = sum_s S_ts v_s / (max(|sum_s S_ts|, exp(-m_t)) + eps),
    S_ts = (q_t . k_s / sqrt(K)) exp(D_ts - m_t),   D_ts = F_t - F_s + log i_s   for s <= t,

with F the running sum of log f and m_t = max_s D_ts, which keeps every exponent at or below zero.
With a_s = log i_s - F_s and M_t its running maximum, D_ts - m_t is just a_s - M_t: the weights
need one subtraction and one exponential, and the stabilizer is m_t = F_t + M_t.

Three forms give the same h: `parallel` is quadratic in S and fastest for short windows,
`chunkwise` is linear, with a state that goes from chunk to chunk, `recurrent` takes one token.
`kernels` holds a fused `parallel` for GPUs, and `plain` is the quadratic form in operations that
any exporter knows. `cell` chooses.

Shapes: B windows, H heads, S tokens, K head size.
"""

from __future__ import annotations

import os
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as nnf
from torch.utils.checkpoint import checkpoint

from hear_axlstm.config import InputGate
from hear_axlstm.ops import kernels
from hear_axlstm.ops.weighted_sum import weighted_sum

Form = Literal["auto", "parallel", "chunkwise", "fused", "plain"]

EPS = 1e-6  # added to the normalizer
CHUNK = 128  # tokens
LARGEST_EXPONENT = 80.0  # of the least normalizer: exp of more would leave float32
PARALLEL_TOKENS = 7  # times K: up to so many the quadratic form is the faster one (measured)


class State(NamedTuple):
    """All that the past means to the future: C and n, both divided by exp(m)."""

    memory: Tensor
    """C exp(-m), float32 ``[B, H, K, K]``, value by key."""
    normalizer: Tensor
    """n exp(-m), float32 ``[B, H, K]``."""
    m: Tensor
    """The stabilizer, float64 ``[B, H]``."""


def log_gates(
    input_BSH: Tensor, forget_BSH: Tensor, input_gate: InputGate
) -> tuple[Tensor, Tensor]:
    """Logarithms of the input and forget gate from their pre-activations.

    The forget gate is a sigmoid; the input gate an exponential (equation 7) or, in the paper's
    ablation (Table 5), a sigmoid.
    """
    log_i = input_BSH if input_gate == "exponential" else nnf.logsigmoid(input_BSH)
    return log_i, nnf.logsigmoid(forget_BSH)


def cell(
    q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor, form: Form = "auto"
) -> Tensor:
    """All hidden states of windows that start from nothing, in the form that is fastest.

    The fused form has not been measured on a GPU yet, and is used only where it is asked for.

    Args:
        q: queries ``[B, S, H, K]``.
        k: keys, likewise, not yet divided by sqrt(K).
        v: values, likewise, all three in one dtype.
        log_i: logarithm of the input gate, float ``[B, S, H]``.
        log_f: logarithm of the forget gate, likewise.
        form: overrides the choice; so does the environment variable HEAR_AXLSTM_CELL.

    Returns:
        h ``[B, S, H, K]`` in the dtype of v.

    Raises:
        ValueError: for another form.
    """
    return _FORMS[fastest_form(q.shape[1], q.shape[3], form)](q, k, v, log_i, log_f)


def fastest_form(tokens: int, head_size: int, form: Form = "auto") -> str:
    """The form for windows of so many tokens, unless it or HEAR_AXLSTM_CELL asks for one.

    Raises:
        ValueError: if there is no form of that name.
    """
    asked = os.environ.get("HEAR_AXLSTM_CELL", "auto") if form == "auto" else form
    if asked == "auto":
        return "parallel" if tokens <= PARALLEL_TOKENS * head_size else "chunkwise"
    if asked not in _FORMS:
        names = ", ".join(("auto", *_FORMS))
        raise ValueError(f"{asked!r} (HEAR_AXLSTM_CELL or form=) is no form: use one of {names}")
    return asked


def parallel(q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor) -> Tensor:
    """The quadratic form."""
    total_f, a = _sums(log_i, log_f)
    running_max = a.cummax(dim=1).values
    u, n = weighted_sum(q, k, v, a, running_max)
    return _normalize(u, n, total_f + running_max, q.shape[-1])


def fused(q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor) -> Tensor:
    """The quadratic form by one GPU kernel."""
    total_f, a = _sums(log_i, log_f)
    running_max = a.cummax(dim=1).values
    return kernels.weighted_sum(q, k, v, a, running_max, _floor(total_f + running_max))


def plain(q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor) -> Tensor:
    """The quadratic form as it stands: slow, in much memory, but without a branch or a loop."""
    total_f, a = _sums(log_i, log_f)
    future = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool, device=q.device).triu(1)
    seen_BHTS = a.transpose(1, 2)[:, :, None].masked_fill(future, -torch.inf)
    running_max_BHT1 = seen_BHTS.amax(-1, keepdim=True)
    q, k, v = (t.transpose(1, 2).flatten(0, 1) for t in (q, k, v))
    weights_BHTS = torch.exp(seen_BHTS - running_max_BHT1).to(q.dtype)
    scores_BHTS = torch.bmm(q, k.mT).view_as(weights_BHTS) * weights_BHTS
    u_BHSK = torch.bmm(scores_BHTS.flatten(0, 1), v).unflatten(0, scores_BHTS.shape[:2])
    m_BSH = total_f + running_max_BHT1[..., 0].transpose(1, 2)
    n_BSH = scores_BHTS.float().sum(-1).transpose(1, 2)
    return _normalize(u_BHSK.transpose(1, 2), n_BSH, m_BSH, q.shape[-1])


def chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_i: Tensor,
    log_f: Tensor,
    state: State | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, State]:
    """The linear form: quadratic inside chunks, a state from one to the next.

    Takes what `cell` takes, a state to go on from (by default nothing) and the tokens of a chunk,
    of which the last may be shorter. The backward pass computes every chunk a second time and so
    keeps only the states.

    Returns:
        h ``[B, S, H, K]`` in the dtype of v, and the state after the last token.

    Raises:
        ValueError: for chunks without a token.
    """
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: a chunk has at least 1 token")
    parts = []
    state = state or empty_state(q)
    pieces = [t.split(chunk, dim=1) for t in (q, k, v, log_i, log_f)]
    for piece in zip(*pieces, strict=True):
        inputs: tuple[Tensor, ...] = (*piece, *state)
        if torch.is_grad_enabled():
            h, *after = checkpoint(_chunk, *inputs, use_reentrant=False)
        else:
            h, *after = _chunk(*inputs)
        state = State(*after)
        parts.append(h)
    return torch.cat(parts, dim=1), state


def recurrent(
    q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor, state: State | None = None
) -> tuple[Tensor, State]:
    """One token, in constant time and memory: equations 1-3 as they stand.

    Args:
        q: query ``[B, H, K]``.
        k: key, likewise, not yet divided by sqrt(K).
        v: value, likewise.
        log_i: logarithm of the input gate ``[B, H]``.
        log_f: logarithm of the forget gate, likewise.
        state: after the tokens before, by default nothing.

    Returns:
        h ``[B, H, K]`` in the dtype of v, and the state after this token.
    """
    memory, normalizer, m_before = state or empty_state(q[:, None])
    log_i, log_f = log_i.to(m_before.dtype), log_f.to(m_before.dtype)
    m = torch.maximum(log_f + m_before, log_i)
    f, i = torch.exp(log_f + m_before - m).float(), torch.exp(log_i - m).float()
    key, query = k.float() * i[..., None], q.float()
    memory = f[..., None, None] * memory + v.float()[..., :, None] * key[..., None, :]
    normalizer = f[..., None] * normalizer + key
    u, n = (memory @ query[..., None])[..., 0], (normalizer * query).sum(-1)
    return _normalize(u, n, m, q.shape[-1]).to(v.dtype), State(memory, normalizer, m)


def empty_state(q: Tensor) -> State:
    """The state before the first token, for queries ``[B, S, H, K]``."""
    batch, _, heads, size = q.shape
    zeros = q.new_zeros(batch, heads, size, size, dtype=torch.float32)
    never = q.new_full((batch, heads), -torch.inf, dtype=_exact(q))
    return State(zeros, zeros[..., 0], never)


def _chunk(
    q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor, *state: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states of some tokens and the state after them; the past adds a term to each sum."""
    memory, normalizer, m = state
    total_f, a = _sums(log_i, log_f)
    running_max = torch.maximum(a.cummax(dim=1).values, m[:, None])
    u, n = weighted_sum(q, k, v, a, running_max)

    before_BSH = torch.exp(m[:, None] - running_max).float()
    q_BHSK = q.float().transpose(1, 2)
    from_before = (q_BHSK @ memory.mT).transpose(1, 2)
    u = (u + before_BSH[..., None] * from_before).to(v.dtype)
    n = n + before_BSH * (q_BHSK @ normalizer[..., None])[..., 0].transpose(1, 2)
    h = _normalize(u, n, total_f + running_max, q.shape[-1])

    last = running_max[:, -1]
    kept = torch.exp(m - last).float()
    new_BSH1 = torch.exp(a - last[:, None]).float()[..., None]
    keys_BHSK = (k.float() * new_BSH1).transpose(1, 2)
    added = v.float().transpose(1, 2).mT @ keys_BHSK
    memory = kept[..., None, None] * memory + added
    normalizer = kept[..., None] * normalizer + keys_BHSK.sum(2)
    return h, memory, normalizer, total_f[:, -1] + last


def _sums(log_i: Tensor, log_f: Tensor) -> tuple[Tensor, Tensor]:
    """F and a, ``[B, S, H]``.

    Sums of log f over a window can reach thousands while their differences decide: float32 would
    lose the third digit of those. Only these small vectors are held in float64.
    """
    total_f = log_f.to(_exact(log_f)).cumsum(dim=1)
    return total_f, log_i.to(total_f.dtype) - total_f


def _exact(like: Tensor) -> torch.dtype:
    return torch.float32 if like.device.type == "mps" else torch.float64


def _normalize(u: Tensor, n: Tensor, m: Tensor, head_size: int) -> Tensor:
    """Divide u by max(|n|, exp(-m)) + eps; u and n still lack the 1 / sqrt(K) of the keys."""
    scale = head_size**-0.5
    normalizer = torch.maximum(n.abs() * scale, _floor(m)) + EPS
    return u * (scale / normalizer).to(u.dtype)[..., None]


def _floor(m: Tensor) -> Tensor:
    """exp(-m), the least normalizer, as a finite float32: of infinity the gradient would be NaN."""
    return torch.exp((-m).clamp(max=LARGEST_EXPONENT)).float()


_FORMS = {
    "parallel": parallel,
    "chunkwise": lambda *inputs: chunkwise(*inputs)[0],
    "fused": fused,
    "plain": plain,
}
