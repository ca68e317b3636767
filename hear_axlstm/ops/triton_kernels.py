"""The mLSTM cell in Triton: a program computes a block of rows of one head of one window.

With w_ts = exp(a_s - M_t) / sqrt(K) for s <= t (else 0) and N_t = max(|n_t|, floor_t) + eps,

    n_t = sum_s w_ts q_t.k_s           h_t = sum_s w_ts (q_t.k_s) v_s / N_t

and for a gradient g_t of h_t, with dn_t that of n_t:

    dq_t = sum_s w_ts (g_t.v_s / N_t + dn_t) k_s       da_s = k_s.dk_s
    dk_s = sum_t w_ts (g_t.v_s / N_t + dn_t) q_t       dM_t = -q_t.dq_t
    dv_s = sum_t w_ts (q_t.k_s / N_t) g_t

All four are sum_j w_ij (x_i.y_j, scaled and shifted) z_j. A program keeps x_i and the sum for ROWS
indices i in registers and loops over blocks of COLS indices j, skipping those beyond the diagonal.
The gradients share no products, so each has its own kernel launch, which halves the registers that
a program needs. M is known in advance, so sums are never rescaled.

Head size. Triton's tiles have powers of two as sizes, and 144 = 128 + 16, 288 = 256 + 32,
576 = 512 + 64, 96 = 64 + 32, 192 = 128 + 64, 384 = 256 + 128. So every row is split into two tiles
of widths HEAD and REST, without padding; for other head sizes the end of REST is masked. Only x.y
in float32 is summed over smaller pieces of the head, since emulating a float32 product by three
TF32 products needs too many registers otherwise.

Gates. `gates` holds a and M as pairs of float32, high + low (`gates_as_pairs`). They may be in the
thousands; the error of the difference of the high parts is relative to the difference, and the low
parts restore what rounding removed.

Shapes: B windows, H heads, S tokens, K head size. Matrices are [B, S, H, K] with any strides
(b, s, h) and a contiguous K. Vectors are contiguous [B, H, S], except a, running_max and floor,
which are [B, S, H] with any strides. gates is [B, H, 4, S] and terms is [B, H, 2, S].
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
    """The window b, the head, their joint index bh, and the block of rows of this program."""
    blocks = tl.cdiv(S, ROWS)
    bh = (tl.program_id(0) // blocks).to(tl.int64)
    return bh // H, bh % H, bh, tl.program_id(0) % blocks


@triton.jit
def _load(matrix, rows, stride, first, size: tl.constexpr, S, K: tl.constexpr):
    """Load [rows, size] of one head, starting at column `first`; 0 outside the matrix."""
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
    """Load elements of two consecutive vectors of gates or terms."""
    inside = index < S
    first = tl.load(vector + index, mask=inside, other=0.0)
    return first, tl.load(vector + S + index, mask=inside, other=0.0)


@triton.jit
def _weights(a_high, a_low, max_high, max_low, seen):
    exponent = (a_high - max_high) + (a_low - max_low)
    return tl.exp2(tl.where(seen, exponent, float("-inf")))


@triton.jit
def _dot(x, y, total, PRECISION: tl.constexpr):
    """Add a matrix product to a total."""
    if INTERPRETED:  # the interpreter would multiply bfloat16 as integers
        x, y = x.to(tl.float32), y.to(tl.float32)
    return tl.dot(x, y, total, input_precision=PRECISION)


@triton.jit
def _products(
    x, i, x_stride, y, j, y_stride, S, K: tl.constexpr, HEAD: tl.constexpr, REST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute all x_i . y_j."""
    products = tl.zeros([i.shape[0], j.shape[0]], tl.float32)
    if x.dtype.element_ty == tl.float32:
        PIECE: tl.constexpr = 32  # columns
        for first in range(0, K, PIECE):
            x_piece = _load(x, i, x_stride, first, PIECE, S, K)
            y_piece = _load(y, j, y_stride, first, PIECE, S, K)
            products = _dot(x_piece, tl.trans(y_piece), products, PRECISION)
    else:  # the compiler hoists the loads of x out of the caller's loop
        x_head = _load(x, i, x_stride, 0, HEAD, S, K)
        y_head = _load(y, j, y_stride, 0, HEAD, S, K)
        products = _dot(x_head, tl.trans(y_head), products, PRECISION)
        if REST > 0:
            x_rest = _load(x, i, x_stride, HEAD, REST, S, K)
            y_rest = _load(y, j, y_stride, HEAD, REST, S, K)
            products = _dot(x_rest, tl.trans(y_rest), products, PRECISION)
    return products


@triton.jit
def gates_as_pairs(
    a, running_max, gates, a_strides, max_strides, shift, S, H, ROWS: tl.constexpr
):  # fmt: skip
    """Store a and M + log(sqrt(K)) times log2(e), for exp2, as pairs; `shift` is log2(sqrt(K))."""
    b, head, bh, block = _place(S, H, ROWS)
    s = block * ROWS + tl.arange(0, ROWS)
    a += b * a_strides[0] + head * a_strides[2]
    running_max += b * max_strides[0] + head * max_strides[2]
    gates += bh * 4 * S + s
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
    b, head, bh, block = _place(S, H, ROWS)
    first = (tl.cdiv(S, ROWS) - 1 - block) * ROWS  # rows with the most keys first
    t = first + tl.arange(0, ROWS)
    q += b * q_strides[0] + head * q_strides[2]
    k += b * k_strides[0] + head * k_strides[2]
    v += b * v_strides[0] + head * v_strides[2]
    h += b * h_strides[0] + head * h_strides[2]
    gates += bh * 4 * S
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
    floor_t = tl.load(floor + t * floor_strides[1], mask=t < S, other=1.0)
    inverse = (1.0 / (tl.maximum(tl.abs(n_t), floor_t) + EPS))[:, None]
    tl.store(n + bh * S + t, n_t, mask=t < S)
    _store(h, t, h_strides[1], 0, u * inverse, S, K)
    if REST > 0:
        _store(h, t, h_strides[1], HEAD, u_rest * inverse, S, K)


@triton.jit
def normalizer_gradients(
    g, h, n, floor, terms, floor_gradient, g_strides, h_strides, floor_strides, S, H,
    K: tl.constexpr, HEAD: tl.constexpr, REST: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Compute `terms`, which are 1 / N and dn, and the gradient of the floor."""
    b, head, bh, block = _place(S, H, ROWS)
    t = block * ROWS + tl.arange(0, ROWS)
    g += b * g_strides[0] + head * g_strides[2]
    h += b * h_strides[0] + head * h_strides[2]
    g_head = _load(g, t, g_strides[1], 0, HEAD, S, K).to(tl.float32)
    d_norm = tl.sum(g_head * _load(h, t, h_strides[1], 0, HEAD, S, K).to(tl.float32), 1)
    if REST > 0:
        g_rest = _load(g, t, g_strides[1], HEAD, REST, S, K).to(tl.float32)
        d_norm += tl.sum(g_rest * _load(h, t, h_strides[1], HEAD, REST, S, K).to(tl.float32), 1)
    floor += b * floor_strides[0] + head * floor_strides[2]
    floor_t = tl.load(floor + t * floor_strides[1], mask=t < S, other=1.0)
    n_t = tl.load(n + bh * S + t, mask=t < S, other=0.0)
    inverse = 1.0 / (tl.maximum(tl.abs(n_t), floor_t) + EPS)
    d_norm *= -inverse
    by_sum = tl.abs(n_t) > floor_t
    terms += bh * 2 * S + t
    tl.store(terms, inverse, mask=t < S)
    signed = tl.where(n_t < 0, -d_norm, d_norm)
    tl.store(terms + S, tl.where(by_sum, signed, 0.0), mask=t < S)
    tl.store(floor_gradient + bh * S + t, tl.where(by_sum, 0.0, d_norm), mask=t < S)


@triton.jit
def gradient(
    x, y, z, gates, terms, wrt, out, gate_out, x_strides, y_strides, z_strides, wrt_strides,
    out_strides, S, H, K: tl.constexpr, HEAD: tl.constexpr, REST: tl.constexpr,
    PRECISION: tl.constexpr, WRT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Compute `out`, the gradient of q, k or v, and `gate_out`, that of M (with q) or a (with k).

    WRT names the tensor; `wrt` contains it. Rows i are times t for q and times s for k and v; the
    sum over j runs over the other time.
    """
    b, head, bh, block = _place(S, H, ROWS)
    first = block * ROWS
    begin, end = first // COLS * COLS, S
    if WRT == "q":
        first = (tl.cdiv(S, ROWS) - 1 - block) * ROWS
        begin, end = 0, tl.minimum(first + ROWS, S)
    i = first + tl.arange(0, ROWS)
    x += b * x_strides[0] + head * x_strides[2]
    y += b * y_strides[0] + head * y_strides[2]
    z += b * z_strides[0] + head * z_strides[2]
    gates += bh * 4 * S
    terms += bh * 2 * S
    total = tl.zeros([ROWS, HEAD], tl.float32)
    if REST > 0:
        total_rest = tl.zeros([ROWS, REST], tl.float32)
    if WRT == "q":
        t = i[:, None]
        max_high, max_low = _pair(gates + 2 * S, t, S)
        inverse, dn = _pair(terms, t, S)
    else:
        s = i[:, None]
        a_high, a_low = _pair(gates, s, S)
    for start in range(begin, end, COLS):
        j = start + tl.arange(0, COLS)
        if WRT == "q":
            s = j[None, :]
            a_high, a_low = _pair(gates, s, S)
        else:
            t = j[None, :]
            max_high, max_low = _pair(gates + 2 * S, t, S)
            inverse, dn = _pair(terms, t, S)
        parts = (
            _products(x, i, x_strides[1], y, j, y_strides[1], S, K, HEAD, REST, PRECISION) * inverse
        )
        if WRT != "v":
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
    if WRT != "v":
        wrt += b * wrt_strides[0] + head * wrt_strides[2]
        d_gate = tl.sum(total * _load(wrt, i, wrt_strides[1], 0, HEAD, S, K).to(tl.float32), 1)
        if REST > 0:
            wrt_rest = _load(wrt, i, wrt_strides[1], HEAD, REST, S, K).to(tl.float32)
            d_gate += tl.sum(total_rest * wrt_rest, 1)
        if WRT == "q":
            d_gate = -d_gate
        tl.store(gate_out + bh * S + i, d_gate, mask=i < S)
