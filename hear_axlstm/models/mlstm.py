"""The mLSTM cell (the paper's equations 1-3) as pure functions, and its block (Figure 1).

The recurrence  C_t = f_t C_{t-1} + i_t v_t k_t^T,  n_t = f_t n_{t-1} + i_t k_t,
h_t = C_t q_t / max(|n_t^T q_t|, 1),  with keys already divided by sqrt(K), unrolls to a causally
weighted sum over the past,

    h_t = sum_s S_ts v_s / (max(|sum_s S_ts|, exp(-m_t)) + eps),
    S_ts = (q_t . k_s) exp(D_ts - m_t),   D_ts = F_t - F_s + log i_s   for s <= t,

with F the running sum of log f and m_t = max_s D_ts, which keeps every exponent at or below zero
(the stabilized form of xLSTM). With a_s = log i_s - F_s and M_t its running maximum, D_ts - m_t is
just a_s - M_t: the weights need one subtraction and one exponential, and the stabilizer is
m_t = F_t + M_t.

Two forms give the same h: the quadratic one (`hear_axlstm.ops`), fastest for short windows, and
`chunkwise`, linear in S, with a state passed from chunk to chunk. `cell` chooses. All of them take
keys that are not yet divided by sqrt(K), and C and n of a `State` are sums of such keys.

Shapes: B windows, S tokens, D model width, E inner width, H heads, K = E / H head size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.utils.checkpoint import checkpoint

from hear_axlstm.config import InputGate, ModelConfig
from hear_axlstm.models.layers import (
    BlockDiagonalLinear,
    CausalConv,
    Gate,
    GatedHeadNorm,
    LayerNorm,
    Linear,
)
from hear_axlstm.models.tensor_names import use_file_names
from hear_axlstm.ops import torch_impl
from hear_axlstm.ops.backends import mixer_for, quadratic_cell
from hear_axlstm.ops.contract import (
    LARGEST_EXPONENT,
    MAP_WIDTH,
    BlockTensors,
    CellGates,
    Mixer,
    is_short,
)
from hear_axlstm.ops.fuse import fuse_weights
from hear_axlstm.ops.matmul import linear
from hear_axlstm.ops.precision import autocast_dtype

CHUNK = 128  # tokens


class State(NamedTuple):
    """Recurrent state: stabilized memory C exp(-m), normalizer n exp(-m), stabilizer m."""

    memory: Tensor
    """C exp(-m), float32 ``[B, H, K, K]``, value by key."""
    normalizer: Tensor
    """n exp(-m), float32 ``[B, H, K]``."""
    m: Tensor
    """The stabilizer, float64 ``[B, H]``."""


def log_exponential(raw: Tensor) -> Tensor:
    """Logarithm of the exponential gate: the pre-activation itself."""
    return raw


LOG_INPUT_GATES: Mapping[InputGate, Callable[[Tensor], Tensor]] = {
    "exponential": log_exponential,
    "sigmoid": nnf.logsigmoid,
}
"""Logarithm of each activation of the input gate, from its pre-activation: the exponential of
equation 7, and the sigmoid of the paper's ablation (Table 5)."""


def log_gates(
    input_BSH: Tensor, forget_BSH: Tensor, input_gate: InputGate
) -> tuple[Tensor, Tensor]:
    """Compute the logarithms of the input and forget gates from their pre-activations.

    All backends use this function. The forget gate is a sigmoid.
    """
    return LOG_INPUT_GATES[input_gate](input_BSH), nnf.logsigmoid(forget_BSH)


def split_gates(raw_BSG: Tensor, input_gate: InputGate) -> tuple[Tensor, Tensor]:
    """`log_gates` of pre-activations ``[B, S, 2 H]``, input gates first."""
    raw_i, raw_f = raw_BSG.chunk(2, dim=-1)
    return log_gates(raw_i, raw_f, input_gate)


def cell_gates(raw_BSG: Tensor, input_gate: InputGate) -> CellGates:
    """The gates of windows from their pre-activations ``[B, S, 2 H]``, input gates first."""
    return stabilize(*split_gates(raw_BSG, input_gate))


def stabilize(log_i: Tensor, log_f: Tensor) -> CellGates:
    """a, M and exp(-m) from log gates ``[B, S, H]``, for windows with an empty initial state."""
    total_f, a = _sums(log_i, log_f)
    running_max = a.cummax(dim=1).values
    return CellGates(a, running_max, normalizer_floor(total_f + running_max))


def stabilize_after(log_i: Tensor, log_f: Tensor, m_BH: Tensor) -> tuple[CellGates, Tensor]:
    """`stabilize` for tokens that follow others, and the stabilizer m after the last one.

    Args:
        log_i: logarithm of the input gate, ``[B, S, H]``.
        log_f: logarithm of the forget gate, ``[B, S, H]``.
        m_BH: stabilizer after the earlier tokens.
    """
    total_f, a = _sums(log_i, log_f)
    running_max = torch.maximum(a.cummax(dim=1).values, m_BH[:, None])
    m = total_f + running_max
    return CellGates(a, running_max, normalizer_floor(m)), m[:, -1]


def cell(q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor) -> Tensor:
    """Hidden states of windows with an empty initial state, computed by the fastest form.

    Args:
        q: queries ``[B, S, H, K]``.
        k: keys ``[B, S, H, K]``, not yet divided by sqrt(K).
        v: values ``[B, S, H, K]``, in the dtype of q and k.
        log_i: logarithm of the input gate, float ``[B, S, H]``.
        log_f: logarithm of the forget gate, float ``[B, S, H]``.

    Returns:
        h ``[B, S, H, K]`` in the dtype of v.
    """
    if is_short(q.shape[1], q.shape[3]):
        return quadratic(q, k, v, log_i, log_f)
    return chunkwise(q, k, v, log_i, log_f)[0]


def quadratic(q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor) -> Tensor:
    """Hidden states in the quadratic form, computed by the backend; arguments as in `cell`."""
    return quadratic_cell(q, k, v, *stabilize(log_i, log_f))


def chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_i: Tensor,
    log_f: Tensor,
    state: State | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, State]:
    """Hidden states in linear time: quadratic within chunks, with a state between them.

    The backward pass recomputes every chunk, so that only the states are stored.

    Args:
        q: as in `cell`.
        k: as in `cell`.
        v: as in `cell`.
        log_i: as in `cell`.
        log_f: as in `cell`.
        state: state after the preceding tokens; by default there are none.
        chunk: number of tokens per chunk; the last one may be shorter.

    Returns:
        h ``[B, S, H, K]`` in the dtype of v, and the state after the last token.

    Raises:
        ValueError: if `chunk` is less than 1.
    """
    if chunk < 1:
        raise ValueError(f"chunk={chunk} must be at least 1 token")
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


def empty_state(q: Tensor) -> State:
    """Initial state before the first token, for queries ``[B, S, H, K]``."""
    batch, _, heads, size = q.shape
    zeros = q.new_zeros(batch, heads, size, size, dtype=torch.float32)
    never = q.new_full((batch, heads), -torch.inf, dtype=_exact(q))
    return State(zeros, zeros[..., 0].contiguous(), never)


def _chunk(
    q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor, *state: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states of one chunk, including the contribution of `state`, and the state after it."""
    memory, normalizer, m = state
    (a, running_max, floor), next_m = stabilize_after(log_i, log_f, m)
    u, n = torch_impl.weighted_sum(q, k, v, a, running_max)

    before_BSH = torch.exp(m[:, None] - running_max).float()
    q_BHSK = q.float().transpose(1, 2)
    from_before = (q_BHSK @ memory.mT).transpose(1, 2)
    u = (u + before_BSH[..., None] * from_before).to(v.dtype)
    n = n + before_BSH * (q_BHSK @ normalizer[..., None])[..., 0].transpose(1, 2)
    h = torch_impl.normalize(u, n, floor, q.shape[-1])

    last = running_max[:, -1]
    kept = torch.exp(m - last).float()
    new_BSH1 = torch.exp(a - last[:, None]).float()[..., None]
    keys_BHSK = (k.float() * new_BSH1).transpose(1, 2)
    added = v.float().transpose(1, 2).mT @ keys_BHSK
    memory = kept[..., None, None] * memory + added
    normalizer = kept[..., None] * normalizer + keys_BHSK.sum(2)
    return h, memory, normalizer, next_m


def _sums(log_i: Tensor, log_f: Tensor) -> tuple[Tensor, Tensor]:
    """F and a, ``[B, S, H]``.

    Sums of log f over a window can reach thousands, but only their differences matter, and float32
    would lose the third digit of those. Only these small vectors are kept in float64.
    """
    total_f = log_f.to(_exact(log_f)).cumsum(dim=1)
    return total_f, log_i.to(total_f.dtype) - total_f


def _exact(like: Tensor) -> torch.dtype:
    return torch.float32 if like.device.type == "mps" else torch.float64


def normalizer_floor(m: Tensor) -> Tensor:
    """exp(-m), the normalizer's lower bound, finite in float32 so that its gradient is not NaN."""
    return torch.exp((-m).clamp(max=LARGEST_EXPONENT)).float()


class MLSTMBlock(nn.Module):
    """Pre-norm residual mLSTM block (paper Figure 1, as in Vision-LSTM).

    Args:
        config: settings of the model.
        index: index of the block; with ``config.flip`` every second block processes the tokens in
            reverse order.

    Raises:
        ValueError: if the inner width does not divide into heads of 4 x 4 blocks.
    """

    use_mixer = False
    """Compute the block between norm and residual with fused weights and the backend's mixer, with
    gradients. Faster in training, but submodules are not called, so their hooks don't fire."""

    def __init__(self, config: ModelConfig, index: int = 0) -> None:
        super().__init__()
        dim, inner, heads = config.dim, self.inner_dim(config), config.heads
        if inner % (MAP_WIDTH * heads):
            raise ValueError(
                f"inner width {inner} must be a multiple of {MAP_WIDTH} x {heads} heads: "
                "change dim, expansion or heads"
            )
        small = math.sqrt(2.0 / (5.0 * dim))
        self.heads, self.input_gate = heads, config.input_gate
        self.reverse = config.flip and index % 2 == 1
        self.cell = cell  # replaced by a form that can be exported, see `embed/export.py`
        self.norm = LayerNorm(dim)
        self.proj_up = Linear(dim, 2 * inner, bias=False)
        self.conv = CausalConv(inner)
        self.q_proj, self.k_proj, self.v_proj = (BlockDiagonalLinear(inner, small) for _ in "qkv")
        self.igate, self.fgate = Gate(inner, heads), Gate(inner, heads)
        self.head_norm = GatedHeadNorm(inner)
        self.skip = nn.Parameter(torch.ones(inner, dtype=torch.float32))
        self.proj_down = Linear(inner, dim, bias=False)
        nn.init.normal_(self.proj_up.weight, std=small)
        nn.init.normal_(self.proj_down.weight, std=2.0 / math.sqrt(dim))
        nn.init.zeros_(self.igate.weight)
        nn.init.zeros_(self.fgate.weight)
        nn.init.normal_(self.igate.bias, std=0.1)
        with torch.no_grad():
            self.fgate.bias.copy_(torch.linspace(3.0, 6.0, heads))
        use_file_names(self)

    def forward(self, tokens_BSD: Tensor) -> Tensor:
        """``[B, S, D]`` -> ``[B, S, D]``."""
        y = self.norm(tokens_BSD)
        y = y.flip(1) if self.reverse else y
        mixer = mixer_for(y, self.skip.numel() // self.heads) if self.use_mixer else None
        if mixer:
            y = self._by_mixer(y, mixer)
        else:
            x, z = self.proj_up(y).chunk(2, dim=-1)
            c = self.conv(x)
            q, k, v = self.q_proj(c), self.k_proj(c), self.v_proj(x)
            raw_i, raw_f = self.igate(q, k, v), self.fgate(q, k, v)
            log_i, log_f = log_gates(raw_i, raw_f, self.input_gate)
            q, k, v, c, z = (t.unflatten(-1, (self.heads, -1)) for t in (q, k, v, c, z))
            h = self.cell(q, k, v, log_i, log_f)
            y = self.proj_down(self.head_norm(h, c, z, self.skip).flatten(2))
        return tokens_BSD + (y.flip(1) if self.reverse else y)

    def _by_mixer(self, y_BSD: Tensor, mixer: Mixer) -> Tensor:
        fused = fuse_weights(self.tensors(), self.heads, autocast_dtype(y_BSD))
        xz_BSE = linear(y_BSD, fused.up)
        gates = partial(cell_gates, input_gate=self.input_gate)
        return linear(mixer(xz_BSE, fused.mixer, self.heads, gates), fused.down)

    def tensors(self) -> BlockTensors:
        """The parameters that fused weights are made from."""
        return BlockTensors(
            self.proj_up.weight,
            *(self.conv.weight, self.conv.bias),
            *(self.q_proj.weight, self.k_proj.weight, self.v_proj.weight),
            *(self.igate.weight, self.igate.bias, self.fgate.weight, self.fgate.bias),
            *(self.head_norm.weight, self.skip),
            self.proj_down.weight,
        )

    @staticmethod
    def inner_dim(config: ModelConfig) -> int:
        """Width inside the block, E."""
        return config.dim * config.expansion

    @staticmethod
    def causal(config: ModelConfig) -> bool:
        """Whether no token sees the tokens after it."""
        return not config.flip

    @staticmethod
    def flops(config: ModelConfig, tokens: int) -> int:
        """Number of multiply-adds of the matrix products in one window's forward pass."""
        inner = MLSTMBlock.inner_dim(config)
        projections = 3 * config.dim * inner
        maps = 3 * inner * MAP_WIDTH
        gates = 3 * inner * 2 * config.heads
        return tokens * (projections + maps + gates) + tokens * (tokens + 1) * inner
