"""The caller's modes of torch: the same embeddings, or one clear error."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from hear_axlstm import get_scene_embeddings, get_timestamp_embeddings, load_model
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.embed.inputs import Request, answer_scenes
from tests.helpers.platforms import posix_only

AUDIO = 0.5 * torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def expected() -> Tensor:
    return get_scene_embeddings(AUDIO, load_model())


@contextmanager
def default(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


MODES: dict[str, Callable] = {
    "autocast to bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", torch.float16),
    "default float64": lambda: default(torch.float64),
    "default bfloat16": lambda: default(torch.bfloat16),
    "default device": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "deterministic": deterministic,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
def test_a_mode_changes_nothing(mode: str, fused: bool, expected: Tensor) -> None:
    with MODES[mode]():
        model = load_model()
        if not fused:
            model.unfuse()
        inside = get_scene_embeddings(AUDIO, model)
        get_timestamp_embeddings(AUDIO[:, :2_000], model)
    assert inside.dtype == torch.float32 and {p.dtype for p in model.parameters()} == {
        torch.float32
    }
    torch.testing.assert_close(inside, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(get_scene_embeddings(AUDIO, model), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["", "axlstm_tiny.random"])
def test_loading_leaves_the_random_numbers_of_the_caller(name: str) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    load_model(name)
    assert torch.equal(torch.rand(1), expected)


def test_a_model_loaded_in_inference_mode_can_be_trained() -> None:
    with torch.inference_mode():
        model = load_model()
    model.train()
    model(AUDIO)[0].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.encoder.parameters())


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_changes_no_stream(mode: str) -> None:
    model, statistics = load_model(), (-8.0, 4.0)
    exact = model.stream(statistics).push(AUDIO[0])[0]
    with MODES[mode]():
        found = model.stream(statistics).push(AUDIO[0])[0]
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-5)


FORK = """
import faulthandler, os, sys, torch
from hear_axlstm import load_model
torch.set_num_threads(2)
model, clip = load_model("axlstm_tiny.random"), torch.randn(160_000) / 10
if sys.argv[1] == "unfused":
    model.unfuse()
expected = model.embed_scenes(clip)
child = os.fork()
if child == 0:
    faulthandler.dump_traceback_later(60, exit=True)
    several = model.embed_scenes([(clip, 16_000), (clip, 16_000)])
    close = [torch.allclose(found, expected, atol=1e-5) for found in
             (model.embed_scenes(clip), *torch.as_tensor(several))]
    os._exit(0 if all(close) else 1)
sys.exit(os.waitpid(child, 0)[1] != 0)
"""


@posix_only
@pytest.mark.parametrize("weights", ["fused", "unfused"])
def test_a_forked_process_embeds(weights: str) -> None:
    """Clips that are long enough for operations that torch's threads share."""
    command = [sys.executable, "-W", "ignore", "-c", FORK, weights]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=180)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_changes_no_empty_result(mode: str) -> None:
    model = load_model()
    with MODES[mode]():
        found, failed = model.embed_scenes(["gone.wav"], errors="skip")
        times = model.stream((-8.0, 4.0)).finish()[1]
    assert found.shape == (0, model.scene_embedding_size) and found.dtype == np.float32
    assert len(failed) == 1 and torch.as_tensor(times).dtype == torch.float32


def test_nothing_embedded_is_on_the_device_of_the_model() -> None:
    request = Request([AUDIO[0]], is_single=False, is_padded=False, as_tensor=True)
    found = answer_scenes(request, [], 8, torch.device("meta"))
    assert found.device.type == "meta" and found.dtype == torch.float32


def test_gradients_within_autocast() -> None:
    model = load_model().unfuse()
    with torch.autocast("cpu", torch.bfloat16):
        model.scene(AUDIO).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.encoder.parameters())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"check_trace": False}])
def test_a_trace_leaves_the_model_as_it_was(options: dict, expected: Tensor) -> None:
    model = load_model()
    torch.jit.trace(model, AUDIO[:1, :4_000], **options)
    torch.testing.assert_close(get_scene_embeddings(AUDIO, model), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_func_gets_one_clear_error(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    with pytest.raises(TypeError, match=r"as passed by torch.func: use the model unfused"):
        torch.func.jvp(lambda x: get_scene_embeddings(x, model), (AUDIO,), (AUDIO,))


def test_a_fake_tensor_gets_one_clear_error() -> None:
    model = load_model()
    with FakeTensorMode() as mode, pytest.raises(TypeError, match="FakeTensor, without data"):
        get_scene_embeddings(mode.from_tensor(AUDIO), model)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: get_scene_embeddings(AUDIO, model),
        lambda model: model.embed_scenes(AUDIO),
        lambda model: model.embed(AUDIO),
    ],
)
def test_nothing_is_compiled_in_functions_that_embed(
    call: Callable[[Embedder], Tensor], expected: Tensor
) -> None:
    model, compiled_nodes = load_model(), 0

    def backend_(graph: torch.fx.GraphModule, _: object) -> Callable:
        nonlocal compiled_nodes
        compiled_nodes += sum(node.op.startswith("call") for node in graph.graph.nodes)
        return graph.forward

    found = torch.compile(lambda: call(model), backend=backend_)()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert compiled_nodes < 10


def test_torch_compile_leaves_fused_weights_alone(expected: Tensor) -> None:
    model: Embedder = load_model()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        steps, _ = compiled(AUDIO)
        exact, _ = model(AUDIO)
    torch.testing.assert_close(steps, exact, rtol=0, atol=1e-5)
