"""The mLSTM cell in Triton: one program computes a block of rows of one head of one window.

With w_ts = exp(a_s - M_t) / sqrt(K) for s <= t (else 0) and N_t = max(|n_t|, floor_t) + eps,

    n_t = sum_s w_ts q_t.k_s           h_t = sum_s w_ts (q_t.k_s) v_s / N_t

and for a gradient g_t of h_t, with dn_t that of n_t:

    dq_t = sum_s w_ts (g_t.v_s / N_t + dn_t) k_s       da_s = k_s.dk_s
    dk_s = sum_t w_ts (g_t.v_s / N_t + dn_t) q_t       dM_t = -q_t.dq_t
    dv_s = sum_t w_ts (q_t.k_s / N_t) g_t

All four are sum_j w_ij (x_i.y_j, scaled and shifted) z_j: a program holds x_i and its sum for ROWS
indices i and passes over COLS indices j at a time, those on its side of the diagonal. No gradient
needs another's products, so each has a launch of its own, which halves what a program must hold.
M is known beforehand: nothing is rescaled on the way.

Head size. Triton's tiles are powers of two, and 144 = 128 + 16, 288 = 256 + 32, 576 = 512 + 64,
96 = 64 + 32, 192 = 128 + 64, 384 = 256 + 128. So every tile is two tiles, HEAD and REST wide,
and nothing is padded or computed twice; other head sizes are masked at the end of REST. Only x.y of
float32 is summed in pieces of the head: three TF32 products for one want more registers than
there are.

Gates. `gates` holds a and M as pairs of float32, high + low (`split_gates`). The difference of high
parts has an error relative to itself, not to their size in the thousands; the low parts add what
rounding took.

Shapes: B windows, H heads, S tokens, K head size. Matrices are [B, S, H, K] with any strides
(b, s, h) and a contiguous K; vectors are [B, H, S], contiguous, but for a, running_max and floor,
which are [B, S, H] with any strides; gates is [B, H, 4, S], terms [B, H, 2, S].
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

from hear_axlstm.ops import contract

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
EPS = tl.constexpr(contract.EPS)


@triton.jit
def _place(S, H, ROWS: tl.constexpr):
    """This program's window, its head, both as one number, and its block of rows."""
    blocks = tl.cdiv(S, ROWS)
    both = (tl.program_id(0) // blocks).to(tl.int64)
    return both // H, both % H, both, tl.program_id(0) % blocks


@triton.jit
def _load(matrix, rows, stride, first, size: tl.constexpr, S, K: tl.constexpr):
    """[rows, size] of one head from column `first` on; 0 outside of it."""
    columns = first + tl.arange(0, size)
    inside = rows[:, None] < S
    if K % size != 0:
        inside = inside & (columns[None, :] < K)
    return tl.load(matrix + rows[:, None] * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _store(matrix, rows, stride, first: tl.constexpr, value, S, K: tl.constexpr):
    columns = first + tl.arange(0, value.shape[1])
    inside = (rows[:, None] < S) & (columns[None, :] < K)
    value = value.to(matrix.dtype.element_ty)
    tl.store(matrix + rows[:, None] * stride + columns[None, :], value, mask=inside)


@triton.jit
def _pair(vector, index, S):
    """Two neighboring vectors of gates or terms at these indices."""
    inside = index < S
    first = tl.load(vector + index, mask=inside, other=0.0)
    return first, tl.load(vector + S + index, mask=inside, other=0.0)


@triton.jit
def _weights(a_high, a_low, max_high, max_low, seen):
    exponent = (a_high - max_high) + (a_low - max_low)
    return tl.exp2(tl.where(seen, exponent, float("-inf")))


@triton.jit
def _dot(x, y, total, PRECISION: tl.constexpr):
    """The sum of a total and a product."""
    if INTERPRETED:  # the interpreter multiplies the bits of bfloat16
        x, y = x.to(tl.float32), y.to(tl.float32)
    return tl.dot(x, y, total, input_precision=PRECISION)


@triton.jit
def _products(
    x, i, x_stride, y, j, y_stride, S, K: tl.constexpr, HEAD: tl.constexpr, REST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """All x_i . y_j."""
    products = tl.zeros([i.shape[0], j.shape[0]], tl.float32)
    if x.dtype.element_ty == tl.float32:
        PIECE: tl.constexpr = 32  # of a head
        for first in range(0, K, PIECE):
            x_piece = _load(x, i, x_stride, first, PIECE, S, K)
            y_piece = _load(y, j, y_stride, first, PIECE, S, K)
            products = _dot(x_piece, tl.trans(y_piece), products, PRECISION)
    else:  # the compiler takes the loads of x out of the caller's loop
        x_head = _load(x, i, x_stride, 0, HEAD, S, K)
        y_head = _load(y, j, y_stride, 0, HEAD, S, K)
        products = _dot(x_head, tl.trans(y_head), products, PRECISION)
        if REST > 0:
            x_rest = _load(x, i, x_stride, HEAD, REST, S, K)
            y_rest = _load(y, j, y_stride, HEAD, REST, S, K)
            products = _dot(x_rest, tl.trans(y_rest), products, PRECISION)
    return products


@triton.jit
def split_gates(
    a, running_max, gates, a_strides, max_strides, shift, S, H, ROWS: tl.constexpr
):  # fmt: skip
    """Gates a and M times log2(e), for exp2, as float32 pairs; M also `shift`, log2(sqrt(K))."""
    b, head, both, block = _place(S, H, ROWS)
    s = block * ROWS + tl.arange(0, ROWS)
    a += b * a_strides[0] + head * a_strides[2]
    running_max += b * max_strides[0] + head * max_strides[2]
    gates += both * 4 * S + s
    log2_e = tl.full([ROWS], 1.4426950408889634, tl.float64)
    a_s = tl.load(a + s * a_strides[1], mask=s < S).to(tl.float64) * log2_e
    max_s = tl.load(running_max + s * max_strides[1], mask=s < S).to(tl.float64) * log2_e + shift
    a_high, max_high = a_s.to(tl.float32), max_s.to(tl.float32)
    tl.store(gates, a_high, mask=s < S)
    tl.store(gates + S, (a_s - a_high.to(tl.float64)).to(tl.float32), mask=s < S)
    tl.store(gates + 2 * S, max_high, mask=s < S)
    tl.store(gates + 3 * S, (max_s - max_high.to(tl.float64)).to(tl.float32), mask=s < S)


@triton.jit
def hidden_states(
    q, k, v, gates, floor, h, n, q_strides, k_strides, v_strides, h_strides, floor_strides, S, H,
    K: tl.constexpr, HEAD: tl.constexpr, REST: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Compute h and n."""
    b, head, both, block = _place(S, H, ROWS)
    first = (tl.cdiv(S, ROWS) - 1 - block) * ROWS  # those with the longest past begin
    t = first + tl.arange(0, ROWS)
    q += b * q_strides[0] + head * q_strides[2]
    k += b * k_strides[0] + head * k_strides[2]
    v += b * v_strides[0] + head * v_strides[2]
    h += b * h_strides[0] + head * h_strides[2]
    gates += both * 4 * S
    max_high, max_low = _pair(gates + 2 * S, t[:, None], S)
    u = tl.zeros([ROWS, HEAD], tl.float32)  # h before its division by N
    if REST > 0:
        u_rest = tl.zeros([ROWS, REST], tl.float32)
    n_t = tl.zeros([ROWS], tl.float32)
    for start in range(0, tl.minimum(first + ROWS, S), COLS):
        s = start + tl.arange(0, COLS)
        a_high, a_low = _pair(gates, s[None, :], S)
        seen = (s[None, :] <= t[:, None]) & (t[:, None] < S)
        scores = _products(q, t, q_strides[1], k, s, k_strides[1], S, K, HEAD, REST, PRECISION)
        scores *= _weights(a_high, a_low, max_high, max_low, seen)
        n_t += tl.sum(scores, 1)
        scores = scores.to(v.dtype.element_ty)
        v_head = _load(v, s, v_strides[1], 0, HEAD, S, K)
        u = _dot(scores, v_head, u, PRECISION)
        if REST > 0:
            v_rest = _load(v, s, v_strides[1], HEAD, REST, S, K)
            u_rest = _dot(scores, v_rest, u_rest, PRECISION)
    floor += b * floor_strides[0] + head * floor_strides[2]
    least = tl.load(floor + t * floor_strides[1], mask=t < S, other=1.0)
    inverse = (1.0 / (tl.maximum(tl.abs(n_t), least) + EPS))[:, None]
    tl.store(n + both * S + t, n_t, mask=t < S)
    _store(h, t, h_strides[1], 0, u * inverse, S, K)
    if REST > 0:
        _store(h, t, h_strides[1], HEAD, u_rest * inverse, S, K)


@triton.jit
def normalizer_gradients(
    g, h, n, floor, terms, floor_gradient, g_strides, h_strides, floor_strides, S, H,
    K: tl.constexpr, HEAD: tl.constexpr, REST: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Compute `terms`, that is 1 / N and dn, and the floor's gradient, where it was the larger."""
    b, head, both, block = _place(S, H, ROWS)
    t = block * ROWS + tl.arange(0, ROWS)
    g += b * g_strides[0] + head * g_strides[2]
    h += b * h_strides[0] + head * h_strides[2]
    g_head = _load(g, t, g_strides[1], 0, HEAD, S, K).to(tl.float32)
    change = tl.sum(g_head * _load(h, t, h_strides[1], 0, HEAD, S, K).to(tl.float32), 1)
    if REST > 0:
        g_rest = _load(g, t, g_strides[1], HEAD, REST, S, K).to(tl.float32)
        change += tl.sum(g_rest * _load(h, t, h_strides[1], HEAD, REST, S, K).to(tl.float32), 1)
    floor += b * floor_strides[0] + head * floor_strides[2]
    least = tl.load(floor + t * floor_strides[1], mask=t < S, other=1.0)
    n_t = tl.load(n + both * S + t, mask=t < S, other=0.0)
    inverse = 1.0 / (tl.maximum(tl.abs(n_t), least) + EPS)
    change *= -inverse
    by_sum = tl.abs(n_t) > least
    terms += both * 2 * S + t
    tl.store(terms, inverse, mask=t < S)
    signed = tl.where(n_t < 0, -change, change)
    tl.store(terms + S, tl.where(by_sum, signed, 0.0), mask=t < S)
    tl.store(floor_gradient + both * S + t, tl.where(by_sum, 0.0, change), mask=t < S)


@triton.jit
def gradient(
    x, y, z, gates, terms, of, out, gate_out, x_strides, y_strides, z_strides, of_strides,
    out_strides, S, H, K: tl.constexpr, HEAD: tl.constexpr, REST: tl.constexpr,
    PRECISION: tl.constexpr, OF: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """The gradient `out` of q, k or v (`of`), and with it that of M or a: OF is their name.

    The rows i are times t for q and times s for k and v; the sum goes over the other time, j.
    """
    b, head, both, block = _place(S, H, ROWS)
    first = block * ROWS
    begin, end = first // COLS * COLS, S
    if OF == "q":
        first = (tl.cdiv(S, ROWS) - 1 - block) * ROWS
        begin, end = 0, tl.minimum(first + ROWS, S)
    i = first + tl.arange(0, ROWS)
    x += b * x_strides[0] + head * x_strides[2]
    y += b * y_strides[0] + head * y_strides[2]
    z += b * z_strides[0] + head * z_strides[2]
    gates += both * 4 * S
    terms += both * 2 * S
    total = tl.zeros([ROWS, HEAD], tl.float32)
    if REST > 0:
        total_rest = tl.zeros([ROWS, REST], tl.float32)
    if OF == "q":
        t = i[:, None]
        max_high, max_low = _pair(gates + 2 * S, t, S)
        inverse, dn = _pair(terms, t, S)
    else:
        s = i[:, None]
        a_high, a_low = _pair(gates, s, S)
    for start in range(begin, end, COLS):
        j = start + tl.arange(0, COLS)
        if OF == "q":
            s = j[None, :]
            a_high, a_low = _pair(gates, s, S)
        else:
            t = j[None, :]
            max_high, max_low = _pair(gates + 2 * S, t, S)
            inverse, dn = _pair(terms, t, S)
        parts = (
            _products(x, i, x_strides[1], y, j, y_strides[1], S, K, HEAD, REST, PRECISION) * inverse
        )
        if OF != "v":
            parts += dn
        parts *= _weights(a_high, a_low, max_high, max_low, (s <= t) & (t < S))
        parts = parts.to(z.dtype.element_ty)
        z_head = _load(z, j, z_strides[1], 0, HEAD, S, K)
        total = _dot(parts, z_head, total, PRECISION)
        if REST > 0:
            z_rest = _load(z, j, z_strides[1], HEAD, REST, S, K)
            total_rest = _dot(parts, z_rest, total_rest, PRECISION)
    out += b * out_strides[0] + head * out_strides[2]
    _store(out, i, out_strides[1], 0, total, S, K)
    if REST > 0:
        _store(out, i, out_strides[1], HEAD, total_rest, S, K)
    if OF != "v":
        of += b * of_strides[0] + head * of_strides[2]
        change = tl.sum(total * _load(of, i, of_strides[1], 0, HEAD, S, K).to(tl.float32), 1)
        if REST > 0:
            of_rest = _load(of, i, of_strides[1], HEAD, REST, S, K).to(tl.float32)
            change += tl.sum(total_rest * of_rest, 1)
        if OF == "q":
            change = -change
        tl.store(gate_out + both * S + i, change, mask=i < S)
