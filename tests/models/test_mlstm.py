"""The cell against the paper's equations, step by step in float64."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as nnf

from hear_axlstm.config import InputGate
from hear_axlstm.embed.export import exportable_cell
from hear_axlstm.models import mlstm
from hear_axlstm.ops import torch_impl
from hear_axlstm.ops.contract import EPS
from tests.helpers.rounding import assert_accurate, sum_rounding
from tests.reference.mlstm import plain_parallel

GATES = 30  # roundings of the largest gate, in units of eps
INPUT_GATES = {"exponential": math.exp, "sigmoid": lambda x: 1 / (1 + math.exp(-x))}


def sums_step_by_step(
    q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """C_t q_t, n_t q_t and the 1 of equation 3, all times exp(-m_t), one token after another.

    Equations 1 and 2 as written, with xLSTM's stabilizer m_t: the state is kept times exp(-m_t).
    """
    q, k, v, log_i, log_f = (t.double() for t in (q, k, v, log_i, log_f))
    batch, tokens, heads, size = q.shape
    memory = q.new_zeros(batch, heads, size, size)
    normalizer = q.new_zeros(batch, heads, size)
    m = q.new_full((batch, heads), -torch.inf)
    rows = []
    for t in range(tokens):
        m_next = torch.maximum(log_f[:, t] + m, log_i[:, t])
        i, f = torch.exp(log_i[:, t] - m_next), torch.exp(log_f[:, t] + m - m_next)
        key = k[:, t] / size**0.5  # equation 5
        memory = f[..., None, None] * memory
        memory = memory + i[..., None, None] * v[:, t, :, :, None] * key[:, :, None, :]
        normalizer = f[..., None] * normalizer + i[..., None] * key
        read = (memory @ q[:, t, :, :, None])[..., 0]
        rows.append((read, (normalizer * q[:, t]).sum(-1), torch.exp(-m_next)))
        m = m_next
    read, weight, one = (torch.stack(x, dim=1) for x in zip(*rows, strict=True))
    return read, weight, one


def step_by_step(q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor) -> Tensor:
    """Equation 3."""
    read, weight, one = sums_step_by_step(q, k, v, log_i, log_f)
    return read / (torch.maximum(weight.abs(), one) + EPS)[..., None]


def head_norm(h: Tensor) -> Tensor:
    """What the block does next; h itself is ill-conditioned where its normalizer is near zero."""
    return nnf.layer_norm(h, h.shape[-1:])


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected).abs().max() / expected.abs().max()).item()


def in_chunks(q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor) -> Tensor:
    return mlstm.chunkwise(q, k, v, log_i, log_f, chunk=48)[0]


FORMS = {
    "quadratic": mlstm.quadratic,
    "exportable": exportable_cell,
    "chunkwise": in_chunks,
}


def inputs(shape: tuple[int, int, int, int], gate: float, seed: int) -> list[Tensor]:
    """q, k, v and the pre-activations of both gates, uniform within +-gate."""
    generator = torch.Generator().manual_seed(seed)
    qkv = [torch.randn(shape, generator=generator) for _ in range(3)]
    return qkv + [(torch.rand(shape[:3], generator=generator) * 2 - 1) * gate for _ in range(2)]


@pytest.mark.parametrize("input_gate", get_args(InputGate))
def test_every_gate_has_the_values_of_its_formula(input_gate: InputGate) -> None:
    raw = torch.linspace(-30, 30, 61, dtype=torch.float64)
    log_i, log_f = mlstm.log_gates(raw, raw, input_gate)
    expected = [
        [math.log(INPUT_GATES[name](x)) for x in raw.tolist()] for name in (input_gate, "sigmoid")
    ]
    torch.testing.assert_close(torch.stack([log_i, log_f]), raw.new_tensor(expected))
    assert set(mlstm.LOG_INPUT_GATES) == set(get_args(InputGate))


@pytest.mark.parametrize("gate", [1.0, 10.0, 30.0])
@pytest.mark.parametrize("input_gate", get_args(InputGate))
@pytest.mark.parametrize("form", FORMS)
def test_a_full_window_equals_the_recurrence(form: str, gate: float, input_gate: InputGate) -> None:
    q, k, v, raw_i, raw_f = inputs((2, 251, 4, 144), gate, seed=0)
    gates = mlstm.log_gates(raw_i, raw_f, input_gate)
    q, k = q.abs(), k.abs()  # all q . k above zero: no row's sum cancels, every digit is defined
    found, expected = FORMS[form](q, k, v, *gates), step_by_step(q, k, v, *gates)
    assert relative_error(found, expected) < sum_rounding(251 + 144)


@pytest.mark.parametrize("gate", [1.0, 10.0, 30.0])
@pytest.mark.parametrize("form", FORMS)
def test_products_of_any_sign_equal_the_recurrence(form: str, gate: float) -> None:
    q, k, v, raw_i, raw_f = inputs((2, 251, 4, 144), gate, seed=0)
    gates = mlstm.log_gates(raw_i, raw_f, "exponential")
    read, weight, one = sums_step_by_step(q, k, v, *gates)
    normalizer = torch.maximum(weight.abs(), one) + EPS
    expected = read / normalizer[..., None]
    # Where products nearly cancel in a sum, no float32 form has all digits of it. So the bound is
    # relative to the sizes of what is added up, in the numerator and in the normalizer.
    size, size_of_weight, _ = sums_step_by_step(q.abs(), k.abs(), v.abs(), *gates)
    added_up = size + expected.abs() * size_of_weight[..., None]
    error = (FORMS[form](q, k, v, *gates) - expected).abs()
    assert (error / (added_up / normalizer[..., None])).max() < sum_rounding(251 + 144)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3),
    tokens=st.integers(1, 300),
    heads=st.integers(1, 3),
    size=st.sampled_from([4, 12, 48]),
    gate=st.floats(0.0, 30.0),
    chunk=st.integers(1, 128),
    input_gate=st.sampled_from(get_args(InputGate)),
    seed=st.integers(0, 2**16),
)
def test_any_shape_equals_the_recurrence(
    batch: int,
    tokens: int,
    heads: int,
    size: int,
    gate: float,
    chunk: int,
    input_gate: InputGate,
    seed: int,
) -> None:
    q, k, v, raw_i, raw_f = inputs((batch, tokens, heads, size), gate, seed)
    q, k = q.abs(), k.abs()
    gates = mlstm.log_gates(raw_i, raw_f, input_gate)
    expected = step_by_step(q, k, v, *gates)
    bound = sum_rounding(tokens + size + GATES)
    assert relative_error(mlstm.quadratic(q, k, v, *gates), expected) < bound
    chunks, _ = mlstm.chunkwise(q, k, v, *gates, chunk=chunk)
    assert relative_error(chunks, expected) < bound


@given(cut=st.integers(1, 59), gate=st.floats(0.0, 30.0), seed=st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_a_state_carries_all_of_the_past(cut: int, gate: float, seed: int) -> None:
    q, k, v, raw_i, raw_f = inputs((2, 60, 2, 12), gate, seed)
    whole = (q.abs(), k.abs(), v, *mlstm.log_gates(raw_i, raw_f, "exponential"))
    first, second = [t[:, :cut] for t in whole], [t[:, cut:] for t in whole]
    expected = step_by_step(*whole)
    h, state = mlstm.chunkwise(*first, chunk=16)
    rest, end = mlstm.chunkwise(*second, state, chunk=16)
    bound = sum_rounding(60 + 12 + GATES)
    assert relative_error(torch.cat([h, rest], dim=1), expected) < bound
    for t in range(60 - cut):  # tokens one by one
        h, state = mlstm.chunkwise(*(x[:, t : t + 1] for x in second), state)
        # The values of a token may add up to less than those of others: of its own largest one.
        assert relative_error(h[:, 0], expected[:, cut + t]) < 10 * bound
    torch.testing.assert_close(state.m, end.m, rtol=1e-9, atol=1e-9)  # float64
    assert relative_error(state.memory, end.memory.double()) < bound
    assert relative_error(state.normalizer, end.normalizer.double()) < bound


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gate", [2.0, 30.0])
def test_gradients_equal_those_of_the_recurrence(form: str, gate: float) -> None:
    leaves = inputs((1, 140, 2, 24), gate, seed=1)
    weight = torch.randn(1, 140, 2, 24, generator=torch.Generator().manual_seed(2))

    def gradients(cell, *leaves: Tensor) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]
        q, k, v, raw_i, raw_f = leaves = tuple(t.detach().requires_grad_() for t in leaves)
        h = cell(q, k, v, *mlstm.log_gates(raw_i, raw_f, "exponential"))
        return torch.autograd.grad((head_norm(h) * weight).sum(), leaves)

    found = gradients(FORMS[form], *leaves)
    assert_accurate(found, lambda *x: gradients(step_by_step, *x), leaves)


def gradients(cell, leaves: list[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]
    """h, and the gradients of q, k, v and the gates' pre-activations; products are of `dtype`."""
    q, k, v, raw_i, raw_f = (t.detach().requires_grad_() for t in leaves)
    h = cell(*(t.to(dtype) for t in (q, k, v)), *mlstm.log_gates(raw_i, raw_f, "exponential"))
    weight = torch.randn(h.shape, generator=torch.Generator().manual_seed(2))
    return h, *torch.autograd.grad((h.double() * weight).sum(), (q, k, v, raw_i, raw_f))


@settings(max_examples=5, deadline=None)
@given(
    batch=st.integers(1, 3),
    tokens=st.integers(1, 100),
    heads=st.integers(1, 3),
    size=st.sampled_from([4, 24, 48]),
    gate=st.sampled_from([1.0, 10.0, 30.0]),
    seed=st.integers(0, 2**16),
)
def test_gradients_of_any_shape_equal_those_of_the_recurrence(
    batch: int, tokens: int, heads: int, size: int, gate: float, seed: int
) -> None:
    leaves = inputs((batch, tokens, heads, size), gate, seed)
    leaves[:2] = [t.abs() for t in leaves[:2]]
    expected = gradients(step_by_step, leaves, torch.float64)
    for form, cell in FORMS.items():
        found = gradients(cell, leaves, torch.float32)
        for name, ours, theirs in zip(("h", *"qkvif"), found, expected, strict=True):
            # A token alone is h = v, whatever q and k: their gradients are what is left of 1 - 1.
            error = (ours.double() - theirs).abs().max() / theirs.abs().max().clamp(min=1.0)
            assert error < 4 * sum_rounding(tokens + size + GATES), (form, name)


@pytest.mark.parametrize("gate", [1.0, 10.0, 30.0])
@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_keeps_gradients_close(form: str, gate: float) -> None:
    """Measured at these seeds, relative in norm: up to 4e-3 for h and v, 5e-2 for q and k."""
    leaves = inputs((2, 140, 2, 24), gate, seed=3)
    leaves[:2] = [t.abs() for t in leaves[:2]]
    found = gradients(FORMS[form], leaves, torch.bfloat16)
    expected = gradients(step_by_step, leaves, torch.float64)
    limits = (8e-3, 0.1, 0.1, 8e-3, 2e-2, 2e-2)
    for name, ours, theirs, limit in zip(("h", *"qkvif"), found, expected, limits, strict=True):
        assert (ours - theirs).norm() < limit * theirs.norm(), name


def from_a_state(tokens: list[Tensor], state: list[Tensor]) -> tuple[Tensor, ...]:
    """Hidden states and the last state, one token after another, in the dtype of the state."""
    q, k, v, log_i, log_f = (t.to(state[0].dtype) for t in tokens)
    memory, normalizer, m = state
    hidden = []
    for t in range(q.shape[1]):
        m_next = torch.maximum(log_f[:, t] + m, log_i[:, t])
        i, f = torch.exp(log_i[:, t] - m_next), torch.exp(log_f[:, t] + m - m_next)
        outer = v[:, t, :, :, None] * k[:, t, :, None, :]
        memory = f[..., None, None] * memory + i[..., None, None] * outer
        normalizer = f[..., None] * normalizer + i[..., None] * k[:, t]
        query, m = q[:, t] / q.shape[-1] ** 0.5, m_next
        weight = torch.maximum((normalizer * query).sum(-1).abs(), torch.exp(-m)) + EPS
        hidden.append((memory @ query[..., None])[..., 0] / weight[..., None])
    return torch.stack(hidden, dim=1), memory, normalizer, m


def chunks_from(tokens: list[Tensor], state: list[Tensor]) -> tuple[Tensor, ...]:
    h, last = mlstm.chunkwise(*tokens, mlstm.State(*state), chunk=32)
    return h, *last


def tokens_from(tokens: list[Tensor], state: list[Tensor]) -> tuple[Tensor, ...]:
    h, last = mlstm.chunkwise(*tokens, mlstm.State(*state), chunk=1)
    return h, *last


@pytest.mark.parametrize("gate", [1.0, 10.0, 30.0])
@pytest.mark.parametrize("form", [chunks_from, tokens_from])
def test_gradients_go_into_a_state_and_come_from_the_last(form, gate: float) -> None:  # type: ignore[no-untyped-def]
    q, k, *others = inputs((2, 70, 2, 24), gate, seed=1)
    generator = torch.Generator().manual_seed(3)
    state = [torch.rand(2, 2, *size, generator=generator) for size in ((24, 24), (24,), ())]
    state[2] = state[2].double()
    leaves = [t.requires_grad_() for t in (q.abs(), k.abs(), *others, *state)]
    weights = [torch.randn(2, 70, 2, 24, generator=generator), *(torch.rand_like(s) for s in state)]

    def differentiate(cell, start: list[Tensor]) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]
        results = cell([*leaves[:3], *mlstm.log_gates(leaves[3], leaves[4], "exponential")], start)
        loss = sum((x * w).double().sum() for x, w in zip(results, weights, strict=True))
        return torch.autograd.grad(loss, leaves)

    found = differentiate(form, leaves[5:])
    expected = differentiate(from_a_state, [t.double() for t in leaves[5:]])
    names = ("q", "k", "v", "input", "forget", *mlstm.State._fields)
    for name, ours, theirs in zip(names, found, expected, strict=True):
        assert relative_error(ours, theirs.double()) < 4 * sum_rounding(70 + 24), name


def test_windows_together_equal_windows_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, *others = inputs((5, 140, 2, 12), 3.0, seed=6)
    leaves = [t.requires_grad_() for t in (q.abs(), k.abs(), *others)]

    def run() -> tuple[Tensor, ...]:
        h = mlstm.quadratic(*leaves[:3], *mlstm.log_gates(leaves[3], leaves[4], "exponential"))
        return h, *torch.autograd.grad(h.square().sum(), leaves)

    one_by_one = run()
    monkeypatch.setattr(torch_impl, "_windows", lambda q: [slice(0, 2), slice(2, 5)])  # as on a GPU
    for together, alone in zip(run(), one_by_one, strict=True):
        assert relative_error(together, alone.double()) < 4 * sum_rounding(140 + 12)


def test_bfloat16_stays_close() -> None:
    q, k, v, raw_i, raw_f = inputs((1, 251, 4, 144), 3.0, seed=3)
    gates = mlstm.log_gates(raw_i, raw_f, "exponential")
    low = mlstm.quadratic(q.bfloat16(), k.bfloat16(), v.bfloat16(), *gates)
    assert low.dtype == torch.bfloat16
    expected = head_norm(step_by_step(q, k, v, *gates))
    cosine = nnf.cosine_similarity(head_norm(low.double()), expected, dim=-1)
    assert cosine.mean() > 0.99


def test_the_plain_form_that_benchmarks_compare_with_is_the_same() -> None:
    q, k, v, raw_i, raw_f = inputs((2, 100, 2, 24), 2.0, seed=5)
    gates = mlstm.log_gates(raw_i, raw_f, "exponential")
    found = head_norm(plain_parallel(q, k, v, *gates))
    assert_accurate([found], lambda *x: [head_norm(step_by_step(*x))], [q, k, v, *gates])


def test_moderate_exponents_may_be_factored(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = inputs((3, 60, 2, 12), 1.0, seed=8)
    weight = torch.randn(3, 60, 2, 12)

    def run(cell, *leaves: Tensor) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]
        leaves = tuple(t.detach().requires_grad_() for t in leaves)
        h = cell(*leaves[:3], *mlstm.log_gates(*leaves[3:], "exponential"))
        return h, *torch.autograd.grad((head_norm(h) * weight).sum(), leaves)

    results = []
    for limit in (64.0, 0.0):
        monkeypatch.setattr(torch_impl, "MODERATE", limit)
        results.append(run(mlstm.quadratic, *leaves))
        assert_accurate(results[-1], lambda *x: run(step_by_step, *x), leaves)
    assert not any(map(torch.equal, *results))


def test_long_windows_go_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, raw_i, raw_f = inputs((1, 100, 2, 12), 1.0, seed=9)
    gates = mlstm.log_gates(raw_i, raw_f, "exponential")
    assert torch.equal(mlstm.cell(q, k, v, *gates), mlstm.chunkwise(q, k, v, *gates)[0])
    with pytest.raises(ValueError, match="chunk=0 must be at least 1 token"):
        mlstm.chunkwise(q, k, v, *gates, chunk=0)


def test_no_token_sees_the_future() -> None:
    q, k, v, raw_i, raw_f = inputs((1, 200, 2, 12), 5.0, seed=4)
    q, k = q.abs(), k.abs()
    whole = mlstm.quadratic(q, k, v, *mlstm.log_gates(raw_i, raw_f, "exponential"))
    start = [t[:, :150] for t in (q, k, v, raw_i, raw_f)]
    part = mlstm.quadratic(*start[:3], *mlstm.log_gates(*start[3:], "exponential"))
    assert relative_error(whole[:, :150], part.double()) < sum_rounding(150 + 12)
