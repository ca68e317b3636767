"""The fused cell against its definition in float64: on a GPU, or else in Triton's interpreter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from hear_axlstm.models import mlstm
from hear_axlstm.ops import backends, torch_impl, triton_impl
from hear_axlstm.ops.contract import EPS
from tests.helpers.rounding import rounded_anew
from tests.reference import cell
from tests.reference.cell import definition, largest

pytest.importorskip("triton", reason="the fused cell needs Triton: extra `kernels`")
from hear_axlstm.ops import triton_kernels, triton_operators

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

HEAD_SIZES = (96, 144, 192, 288, 384, 576)


def inputs(
    shape: tuple[int, int, int, int], gate: float = 1.0, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    return cell.inputs(shape, gate, dtype, DEVICE)


def errors(
    leaves: list[Tensor], form: Callable[..., Tensor] = triton_impl.quadratic_cell
) -> dict[str, float]:
    return cell.errors(leaves, form)


def assert_accurate(leaves: list[Tensor]) -> None:
    """Assert that errors are below what some roundings of the inputs would change.

    Where the products that matter nearly cancel, float32 loses digits in every form. The gates'
    vectors are float64 and stay as they are.
    """
    moved = errors(
        leaves,
        lambda *x: definition(*(t if t.dtype == torch.float64 else rounded_anew(t) for t in x)),
    )
    assert largest(errors(leaves).values()) < largest(moved.values())


def test_supported_head_sizes_have_a_tiling() -> None:
    make = triton_operators.triton.Config
    tilings = triton_operators.TILINGS
    configs = [make({"ROWS": rows, "COLS": cols}, warps) for rows, cols, warps, _ in tilings]
    for size, supported in ((16, True), (576, True), (1280, True), (1284, False), (2304, False)):
        head, rest = triton_operators.head_tiles(size)
        fitting = triton_operators._fitting(configs, {}, HEAD=head, REST=rest)
        assert triton_impl.supports(torch.empty(1, 1, 1, size)) == supported == bool(fitting)


@pytest.mark.parametrize("tokens", [5, 37, 70])
def test_float32_equals_the_definition(tokens: int) -> None:
    assert_accurate(inputs((1, tokens, 2, 144)))


@pytest.mark.parametrize("tokens", [1, 70])
def test_where_the_floor_is_the_normalizer(tokens: int) -> None:
    leaves = inputs((1, tokens, 2, 24))
    with torch.no_grad():
        leaves[-1].mul_(1000)
    assert_accurate(leaves)


@pytest.mark.parametrize("size", [12, 16, 96, 130, 288])
def test_any_head_size_equals_the_definition(size: int) -> None:
    assert_accurate(inputs((2, 37, 1, size)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype: torch.dtype) -> None:
    # Weighted scores are rounded once before they multiply v, and h once: 2^-9 or 2^-12 each.
    bound = 2e-2 if dtype == torch.bfloat16 else 2e-3
    assert largest(errors(inputs((1, 70, 1, 144), dtype=dtype)).values()) < bound


@pytest.mark.parametrize("gate", [10.0, 30.0])
def test_strong_gates(gate: float) -> None:
    leaves = inputs((1, 70, 2, 48), gate)
    assert_accurate(leaves)
    with torch.no_grad():
        leaves[0].abs_(), leaves[1].abs_()  # now all q . k are above zero and no sum cancels
    assert_accurate(leaves)


def test_gate_sums_in_the_thousands_keep_their_differences() -> None:
    leaves = inputs((1, 70, 2, 48))
    q, k, v, a, running_max, floor = leaves
    near = triton_impl.quadratic_cell(*leaves)
    far = triton_impl.quadratic_cell(q, k, v, a + 12345.678, running_max + 12345.678, floor)
    torch.testing.assert_close(far, near, rtol=1e-5, atol=1e-6)


def test_inputs_with_any_strides_are_read_within_their_bounds() -> None:
    leaves = inputs((2, 37, 2, 144))
    expected = triton_impl.quadratic_cell(*leaves)

    def within_nan(x: Tensor) -> Tensor:
        frame = x.new_full([size + 3 for size in x.shape], torch.nan)
        view = frame[tuple(slice(1, size + 1) for size in x.shape)]
        return view.copy_(x.detach())

    framed = [within_nan(x).requires_grad_() for x in leaves]
    assert torch.equal(triton_impl.quadratic_cell(*framed), expected)
    transposed = [x.detach().mT.contiguous().mT for x in leaves[:3]]  # K is not contiguous
    assert torch.equal(triton_impl.quadratic_cell(*transposed, *leaves[3:]), expected)
    assert_accurate(framed)


def test_nothing_is_written_outside_of_the_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    empty, band, frames = torch.empty, 1000, []

    def framed_empty(shape: tuple[int, ...], **kind) -> Tensor:  # type: ignore[no-untyped-def]
        size = torch.Size(shape).numel()
        frames.append(empty(size + 2 * band, **kind).fill_(7))
        return frames[-1][band:-band].view(shape)

    leaves = inputs((1, 37, 3, 130))
    with monkeypatch.context() as patched:
        patched.setattr(triton_operators.torch, "empty", framed_empty)
        triton_impl.quadratic_cell(*leaves).square().sum().backward()
    assert len(frames) == 10  # h, n, gates; 1 / N and dn, six gradients
    for frame in frames:
        assert torch.all(frame[:band] == 7) and torch.all(frame[-band:] == 7)
        assert torch.all(frame[band:-band] != 7)


@pytest.mark.parametrize("backend", [torch_impl, triton_impl])
def test_gates_that_are_nearly_shut_have_finite_gradients(backend: ModuleType) -> None:
    qkv = inputs((1, 9, 2, 24))[:3]
    shut = torch.full((1, 9, 2), -900.0, device=DEVICE, requires_grad=True)
    h = backend.quadratic_cell(*qkv, *mlstm.stabilize(shut, torch.full_like(shut, -0.1)))
    for gradient in torch.autograd.grad(h.sum(), [*qkv, shut]):
        assert gradient.isfinite().all()


def test_products_follow_either_setting_of_tf32() -> None:
    leaves, settings = inputs((1, 5, 2, 24)), torch.backends.cuda.matmul
    before, has_newer = torch.get_float32_matmul_precision(), hasattr(settings, "fp32_precision")
    newer_before = settings.fp32_precision if has_newer else None
    try:
        for precision, expected in (("high", "tf32"), ("highest", "tf32x3")):
            torch.set_float32_matmul_precision(precision)
            assert triton_operators._precision(torch.float32) == expected
        if has_newer:
            settings.fp32_precision = "tf32"
            triton_impl.quadratic_cell(*leaves).sum().backward()
            assert triton_operators._precision(torch.float32) == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)
        if has_newer:
            settings.fp32_precision = newer_before


def test_another_default_dtype() -> None:
    leaves = inputs((1, 20, 2, 24))
    expected = torch.autograd.grad(triton_impl.quadratic_cell(*leaves).sum(), leaves)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = torch.autograd.grad(triton_impl.quadratic_cell(*leaves).sum(), leaves)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, found, expected))


def test_pytorch_accepts_the_operators() -> None:
    leaves = inputs((1, 20, 2, 24))
    torch.library.opcheck(triton_operators.forward, tuple(leaves))
    compiled = torch.compile(triton_impl.quadratic_cell, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(*leaves).square().sum(), leaves)
    expected = torch.autograd.grad(triton_impl.quadratic_cell(*leaves).square().sum(), leaves)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_auto_takes_triton_after_a_check(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert backends.triton_agrees(DEVICE.type)
    monkeypatch.setattr(
        triton_impl, "quadratic_cell", lambda *x: 1.01 * torch_impl.quadratic_cell(*x)
    )
    assert not backends.triton_agrees(DEVICE.type)

    def fail(*_: Tensor) -> Tensor:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(triton_impl, "quadratic_cell", fail)
    assert not backends.triton_agrees(DEVICE.type)
    assert ["disagree" in caplog.messages[0], "no such instruction" in caplog.messages[1]] == [1, 1]


def test_the_check_ignores_the_callers_autocast() -> None:
    with torch.autocast(DEVICE.type, torch.bfloat16):
        assert backends.triton_agrees(DEVICE.type)


def test_constants_agree_with_the_cell() -> None:
    assert triton_kernels.EPS.value == EPS
    for size in HEAD_SIZES:
        assert sum(triton_operators.head_tiles(size)) == size  # nothing is padded


def test_bad_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, *gates = inputs((1, 5, 2, 24))
    with pytest.raises(ValueError, match="float64"):
        triton_impl.quadratic_cell(q.double(), k.double(), v.double(), *gates)
    with pytest.raises(ValueError, match="bfloat16"):
        triton_impl.quadratic_cell(q, k.bfloat16(), v, *gates)
    with pytest.raises(ValueError, match=r"\(1, 4, 2, 24\)"):
        triton_impl.quadratic_cell(q, k[:, :4], v, *gates)
    with pytest.raises(ValueError, match="meta"):
        triton_impl.quadratic_cell(q.to("meta"), k, v, *gates)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not triton_impl.is_available(torch.device("cpu"))
    monkeypatch.setattr(triton_impl, "HAS_TRITON", False)
    assert not triton_impl.is_available(DEVICE)
    with pytest.raises(ImportError, match=r"\[kernels\]"):
        triton_impl.quadratic_cell(q, k, v, *gates)


@pytest.mark.slow
@pytest.mark.parametrize("size", [96, 144, 576])
def test_every_program_compiles_for_hopper(size: int, tmp_path: Path) -> None:
    script = Path(__file__).with_name("compile_kernels.py")  # without the interpreter
    command = [sys.executable, str(script), str(size), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
