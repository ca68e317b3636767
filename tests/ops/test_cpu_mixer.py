"""The compiled part of a block against the same in PyTorch, forward and backward."""

from __future__ import annotations

import copy
import ctypes
import logging
import os
import shutil
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hear_axlstm import get_scene_embeddings, load_model
from hear_axlstm.config import InputGate
from hear_axlstm.models.mlstm import MLSTMBlock
from hear_axlstm.ops import backends, cpu_mixer, library, torch_impl, triton_impl
from hear_axlstm.ops.fuse import fuse_weights
from tests.helpers.mlstm_blocks import gates_of, lively_block, outputs_of
from tests.helpers.rounding import assert_accurate

pytestmark = pytest.mark.skipif(
    not library.is_available() and shutil.which("c++") is None, reason="there is no C++ compiler"
)


def up_projection(block: MLSTMBlock, tokens: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, tokens, block.proj_up.out_features)


@torch.no_grad()
def both(block: MLSTMBlock, tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    xz, weights = up_projection(block, tokens).to(dtype), fuse_weights(block.tensors(), 4).mixer
    found = cpu_mixer.mixer(xz, weights, block.heads, gates_of(block))
    return found.float(), torch_impl.fused_mixer(xz, weights, block.heads, cell_of(block)).float()


def cell_of(block: MLSTMBlock) -> Callable[..., Tensor]:
    return lambda q, k, v, raw: torch_impl.quadratic_cell(q, k, v, *gates_of(block)(raw))


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 127, 128, 129, 251])
@pytest.mark.parametrize("input_gate", get_args(InputGate))
@pytest.mark.parametrize("gates", [1.0, 30.0])
def test_same_as_pytorch_in_float64(tokens: int, input_gate: InputGate, gates: float) -> None:
    block = lively_block(input_gate, gates)
    inputs = torch.randn(2, tokens, block.proj_up.in_features)
    assert_accurate([block(inputs)], outputs_of(block), [inputs, *block.parameters()])


def test_bfloat16_is_close() -> None:
    block = lively_block()
    found, expected = both(block, 251, torch.bfloat16)
    exact, _ = both(block, 251, torch.float32)
    assert (found - exact).norm() < 1.5 * (expected - exact).norm()


def gradients(block: MLSTMBlock, tokens: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    tokens = tokens.clone().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        out = block(tokens).float()
    torch.manual_seed(2)
    loss = (out * torch.randn_like(out)).sum()
    named = {"tokens": tokens, **dict(block.named_parameters())}
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def exact_gradients(block: MLSTMBlock) -> Callable[..., list[Tensor]]:
    """The values of `gradients` from tokens and parameters, by PyTorch in float64."""
    plain = copy.deepcopy(block).double()
    plain.use_mixer = False

    def function(tokens: Tensor, *values: Tensor) -> list[Tensor]:
        for parameter, value in zip(plain.parameters(), values, strict=True):
            parameter.data = value
        return list(gradients(plain, tokens, torch.float32).values())

    return function


@pytest.mark.parametrize("tokens", [1, 3, 129, 251])
@pytest.mark.parametrize("input_gate", get_args(InputGate))
@pytest.mark.parametrize("gates", [1.0, 10.0])
def test_gradients_are_those_of_pytorch(tokens: int, input_gate: InputGate, gates: float) -> None:
    block = lively_block(input_gate, gates)
    inputs = torch.randn(2, tokens, block.proj_up.in_features)
    found = gradients(block, inputs, torch.float32).values()
    assert_accurate(list(found), exact_gradients(block), [inputs, *block.parameters()])


@pytest.mark.parametrize(("dim", "heads"), [(4, 1), (20, 1), (36, 3), (100, 5)])
def test_gradients_of_blocks_that_fill_no_vector(dim: int, heads: int) -> None:
    block = lively_block(dim=dim, heads=heads, expansion=1)
    inputs = torch.randn(2, 7, dim)
    found = gradients(block, inputs, torch.float32).values()
    assert_accurate(list(found), exact_gradients(block), [inputs, *block.parameters()])


@pytest.mark.parametrize("bias", [-30.0, -90.0, -200.0])
def test_gradients_of_gates_that_are_nearly_shut(bias: float) -> None:
    block = lively_block()
    block.igate.bias.data.fill_(bias)
    inputs = torch.randn(2, 129, block.proj_up.in_features)
    found = gradients(block, inputs, torch.float32).values()
    assert_accurate(list(found), exact_gradients(block), [inputs, *block.parameters()])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_blocks_of_other_types(dtype: torch.dtype) -> None:
    block = lively_block()
    inputs = torch.randn(2, 20, block.proj_up.in_features)
    given = [inputs, *(p.detach().clone() for p in block.parameters())]
    exact = outputs_of(block)
    found = block.to(dtype)(inputs.to(dtype))
    assert found.dtype == dtype
    # gates and normalizer are float32, also in a block of float64
    assert_accurate([found], exact, given, torch.float32 if dtype == torch.float64 else dtype)


def test_autocast_to_a_type_that_is_not_there() -> None:
    block = lively_block()
    inputs = torch.randn(2, 20, block.proj_up.in_features)
    with torch.autocast("cpu", torch.float16):
        found = block(inputs)
    assert_accurate([found], outputs_of(block), [inputs, *block.parameters()], torch.float16)


def test_autocast_leaves_float64_alone() -> None:
    block = lively_block().double()
    inputs = torch.randn(2, 20, block.proj_up.in_features).double()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(block(inputs), block(inputs)) and block(inputs).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_default_dtype(dtype: torch.dtype) -> None:
    model, audio = load_model(), 0.1 * torch.randn(3, 40_000)
    expected = get_scene_embeddings(audio, model)
    torch.set_default_dtype(dtype)
    try:
        found = get_scene_embeddings(audio, model)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_another_default_device() -> None:
    block = lively_block()
    tokens = torch.randn(2, 20, block.proj_up.in_features)
    expected = gradients(block, tokens, torch.float32)
    given = up_projection(block, 20), fuse_weights(block.tensors(), 4).mixer, 4, gates_of(block)
    mixed = cpu_mixer.mixer(*given)
    with torch.device("meta"):
        assert torch.equal(cpu_mixer.mixer(*given), mixed)
    again = gradients(block, tokens, torch.float32)
    assert all(torch.equal(again[name], gradient) for name, gradient in expected.items())


@pytest.mark.filterwarnings("ignore")
def test_what_is_traced_goes_by_pytorch() -> None:
    block = lively_block().eval()
    first, second = torch.randn(2, 2, 20, block.proj_up.in_features).unbind()
    with torch.no_grad():
        traced = torch.jit.trace(block, first, check_trace=False)
        assert_accurate([traced(second)], outputs_of(block), [second, *block.parameters()])
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert block(mode.from_tensor(first)).shape == first.shape


def test_a_library_that_does_not_load_stays_unused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "_block.so"
    broken.write_bytes(b"no library")
    found = ModuleSpec("_block", None, origin=str(broken))
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: found)
    library._library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert not library.is_available() and not library.is_available()
    finally:
        library._library.cache_clear()
    (record,) = caplog.records
    assert "can't be loaded and is not used: reinstall" in record.message


@pytest.mark.parametrize(("asked", "chosen"), [("auto", "cpu"), ("cpu", "cpu"), ("torch", "torch")])
def test_the_backend_can_be_asked_for(
    asked: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_chosen", {})
    monkeypatch.setenv("HEAR_AXLSTM_BACKEND", asked)
    assert backends.backend("cpu") == chosen
    assert (backends.mixer_for(torch.empty(1, 20, 192), 144) is not None) == (chosen == "cpu")


def test_a_backend_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_chosen", {})
    monkeypatch.setenv("HEAR_AXLSTM_BACKEND", "fast")
    with pytest.raises(ValueError, match="HEAR_AXLSTM_BACKEND='fast': use one of auto, torch, cpu"):
        backends.backend("cpu")
    monkeypatch.setenv("HEAR_AXLSTM_BACKEND", "cpu")
    monkeypatch.setattr(library, "_library", lambda: None)
    with pytest.raises(ValueError, match="no compiled library: install a C\\+\\+ compiler"):
        backends.backend("cpu")
    monkeypatch.setenv("HEAR_AXLSTM_BACKEND", "auto")
    assert backends.backend("cpu") == "torch"


def test_each_gpu_has_its_own_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one is too old, and the current one."""
    monkeypatch.setattr(backends, "_chosen", {})
    monkeypatch.setenv("HEAR_AXLSTM_BACKEND", "auto")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(triton_impl, "is_available", lambda device: device.index in (0, 2))
    monkeypatch.setattr(backends, "triton_agrees", lambda device: device.index == 0)
    found = [backends.backend(torch.device("cuda", index)) for index in range(3)]
    assert found == ["triton", "torch", "torch"]
    assert backends.backend("cuda") == "torch"


def test_wrong_arguments_never_reach_the_library() -> None:
    block = lively_block()
    weights = fuse_weights(block.tensors(), 4).mixer
    xz = up_projection(block, 20)
    with pytest.raises(ValueError, match=r"conv has shape \(4, 576\) instead of \(4, 288\)"):
        cpu_mixer.mixer(xz[..., :576], weights, 4, gates_of(block))
    with pytest.raises(TypeError, match="float64"):
        cpu_mixer.mixer(xz.double(), weights, 4, gates_of(block))
    sizes, sums = (1, 8, 4, 4), torch.zeros(4, 8)
    q, k, v, u = torch.zeros(4, 4, 8, 16).unbind()
    a = torch.zeros(4, 8, dtype=torch.float64)
    good = sizes, q, k, v, a, a, 1, u, sums
    library.call("weighted_sum", *good)
    for place, wrong in ((1, q.mT), (4, a.float()), (6, 1.0), (8, a)):
        with pytest.raises((TypeError, ctypes.ArgumentError)):
            library.call("weighted_sum", *good[:place], wrong, *good[place + 1 :])
    with pytest.raises(TypeError, match=r"weighted_sum takes 9 arguments .* got 8 of"):
        library.call("weighted_sum", *good[:-1])


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="it ends the process")
@pytest.mark.parametrize("threads", [1, 2])
def test_no_memory_is_an_error(threads: int) -> None:
    size, empty = 2**50, torch.zeros(1)  # more than any address space
    with pytest.raises(MemoryError, match="out of memory in weighted_sum"):
        a = torch.zeros(1, dtype=torch.float64)
        sizes = (threads, 1, 1, size)
        library.call("weighted_sum", sizes, empty, empty, empty, a, a, threads, empty, empty)


def test_gradients_in_bfloat16() -> None:
    block = lively_block()
    inputs = torch.randn(2, 251, block.proj_up.in_features)
    found = gradients(block, inputs, torch.bfloat16)
    block.use_mixer = False
    by_torch = gradients(block, inputs, torch.bfloat16)
    exact = gradients(block, inputs, torch.float32)
    for name, expected in exact.items():
        error, usual = (found[name] - expected).norm(), (by_torch[name] - expected).norm()
        assert error < 2.0 * usual + 1e-3 * expected.norm(), name
