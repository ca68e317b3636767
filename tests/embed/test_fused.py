"""Fused weights on a CPU against the modules that they were made of."""

import copy
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from hear_axlstm import get_scene_embeddings, load_model
from hear_axlstm.config import PRESETS, ModelConfig, preset
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.embed.fused import FusedEncoder
from hear_axlstm.models.encoder import Encoder
from hear_axlstm.ops import library
from hear_axlstm.ops.cores import thread_count
from tests.helpers.threads import torch_threads

TINY = preset("axlstm_tiny")


def lively(config: ModelConfig, seed: int = 0) -> Encoder:
    """An encoder whose every weight matters: gates and norms away from their initial zeros."""
    torch.manual_seed(seed)
    encoder = Encoder(config)
    for parameter in encoder.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return encoder


def expected(encoder: Encoder, mel: Tensor) -> Tensor:
    with torch.no_grad():
        return encoder(mel)[:, 1:]


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, flip=True, expansion=2, input_gate="sigmoid"),
        replace(TINY, patch=(8, 16), expansion=4),
        preset("ssast_tiny"),
    ],
    ids=["preset", "ablation", "patches", "ssast"],
)
@pytest.mark.parametrize("windows", [1, 2, 7])
def test_same_as_the_encoder(config: ModelConfig, windows: int) -> None:
    encoder, mel = lively(config), torch.randn(windows, 48, 80)
    found = FusedEncoder(encoder, torch.float32)(mel)
    torch.testing.assert_close(found, expected(encoder, mel), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("preset_name", "own"), [("axlstm_tiny", 1), ("ssast_tiny", 3)])
def test_one_window_uses_all_cores(
    preset_name: str, own: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads of torch where its operations are shared, otherwise those of the compiled block."""
    seen: list[tuple[int, int]] = []
    encode = FusedEncoder._encode

    def counted(self: FusedEncoder, patches: Tensor) -> Tensor:
        seen.append((torch.get_num_threads(), thread_count()))
        return encode(self, patches)

    monkeypatch.setattr(FusedEncoder, "_encode", counted)
    model = load_model(f"{preset_name}.random")
    own = own if model.encoder.fused.is_compiled else 3
    with torch_threads(3):
        get_scene_embeddings(torch.randn(1, 16_000) / 10, model)
    assert seen == [(own, 3)]


def test_hooks_of_the_front_end_are_called() -> None:
    model, calls = load_model("axlstm_tiny.random"), list[int]()
    model.mel.register_forward_hook(lambda *_: calls.append(1))
    get_scene_embeddings(torch.randn(1, 16_000) / 10, model)
    assert calls


@pytest.mark.parametrize("windows", [1, 5])
def test_cores_share_the_windows_that_remain(windows: int) -> None:
    """Also if two callers want the cores at once."""
    encoder, mel = lively(TINY), torch.randn(windows, 96, 80)
    fused, exact = FusedEncoder(encoder, torch.float32), expected(encoder, mel)
    with torch_threads(3), ThreadPoolExecutor(2) as pool:
        for found in pool.map(fused, [mel] * 6):
            torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n.endswith("base") else []) for n in PRESETS],
)
def test_bfloat16_keeps_the_direction(name: str) -> None:
    encoder, mel = lively(preset(name)), torch.randn(2, 200, 80)
    found = FusedEncoder(encoder, torch.bfloat16)(mel)
    assert found.dtype == torch.float32
    cosine = nnf.cosine_similarity(found, expected(encoder, mel), dim=-1)
    assert cosine.mean() > 0.998
    scenes = nnf.cosine_similarity(found.mean(1), expected(encoder, mel).mean(1), dim=-1)
    assert scenes.min() > 0.999


def tiny(seed: int = 0) -> Embedder:
    model = Embedder(ModelConfig(dim=32, depth=2)).eval()
    model.encoder.load_state_dict(lively(model.config, seed).state_dict())
    return model


AUDIO = 0.1 * torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def embedded(model: Embedder) -> Tensor:
    return model.scene(AUDIO)


def test_fusing_again_counts_what_a_sum_does_not_show() -> None:
    model = tiny().fuse()
    before, skip = embedded(model), model.encoder.blocks[0].skip
    skip.data[:2] += torch.tensor([1.0, -1.0])  # through .data, the sum kept
    assert torch.equal(embedded(model), before)  # frozen, as fuse() says
    found = embedded(model.fuse())
    assert (found - before).norm() > 1e-4 * before.norm()
    torch.testing.assert_close(found, embedded(model.unfuse()), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "drop",
    [
        lambda model: model.unfuse(),
        lambda model: model.train().eval(),
        lambda model: model.encoder.train().eval(),
        lambda model: model.load_state_dict(tiny(seed=1).state_dict()),
        lambda model: model.encoder.load_state_dict(tiny(seed=1).encoder.state_dict()),
        lambda model: model.double().float(),
        lambda model: model.encoder.double().float(),
        lambda model: setattr(model, "encoder", tiny(seed=1).encoder),
    ],
    ids=[
        "unfuse",
        "train",
        "encoder.train",
        "load",
        "encoder.load",
        "dtype",
        "encoder.dtype",
        "replaced",
    ],
)
def test_what_drops_fused_weights(drop: Callable[[Embedder], object]) -> None:
    model = tiny().fuse()
    drop(model)
    assert model.encoder.fused is None
    for parameter in model.parameters():
        parameter.data.mul_(1.1)
    torch.testing.assert_close(embedded(model), embedded(model.fuse()), rtol=0, atol=1e-4)


def test_a_move_to_where_the_model_is_keeps_fused_weights() -> None:
    model = tiny().fuse()
    assert model.to("cpu", torch.float32).encoder.fused is not None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_fused_model_can_be_copied(copied: Callable[[Embedder], Embedder]) -> None:
    model = tiny().fuse()
    expected, twin = embedded(model), copied(model)
    del model
    assert twin.encoder.fused is not None and torch.equal(embedded(twin), expected)


@pytest.mark.parametrize("architecture", ["axlstm", "ssast"])
def test_a_pickled_model_is_fused_for_the_processor_that_loads_it(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Embedder(replace(preset(f"{architecture}_tiny"), depth=2)).fuse()
    expected = embedded(model)
    with monkeypatch.context() as patch:  # packed as on another processor
        patch.setattr(library, "gemm_columns", lambda: 2)
        pickled = pickle.dumps(model.fuse())
    torch.testing.assert_close(embedded(pickle.loads(pickled)), expected)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_saved_fused_model_can_be_loaded_on_another_device(device: str) -> None:
    file = io.BytesIO()
    torch.save(tiny().fuse(), file)
    file.seek(0)
    loaded = torch.load(file, map_location=device, weights_only=False)
    assert loaded.device.type == device and not loaded.training
    assert (loaded.encoder.fused is not None) == (device == "cpu")


@pytest.mark.parametrize("use", [Embedder.scene, Embedder.forward])
def test_a_fused_model_refuses_gradients(use: Callable) -> None:
    model = tiny().fuse()
    with pytest.raises(RuntimeError, match=r"fused for inference.*model\.unfuse\(\) or model\.tr"):
        use(model, AUDIO)
    with pytest.raises(RuntimeError, match="fused for inference"):
        model.encoder(torch.randn(1, 48, 80))
    model.train().scene(AUDIO).sum().backward()
    assert model.encoder.cls_token.grad is not None


def test_precision_follows() -> None:
    model = tiny().fuse()
    exact = embedded(model)
    model.precision = "bfloat16"
    assert 1e-5 < (embedded(model) - exact).norm() / exact.norm() < 0.1
    with pytest.raises(ValueError, match="precision='half'"):
        model.precision = "half"  # type: ignore[assignment]


PARTS = ("norm", "proj_up", "conv", "q_proj", "igate", "fgate", "head_norm", "proj_down")


def test_hooks_of_an_unfused_model_are_called() -> None:
    model, calls = tiny(), []
    before, block = embedded(model), model.encoder.blocks[1]
    for name in PARTS:
        getattr(block, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    block.register_forward_pre_hook(lambda *_: calls.append("block"))
    assert torch.equal(embedded(model), before)
    assert sorted(calls) == sorted((*PARTS, "block"))
    with pytest.raises(ValueError, match=r"blocks\.1 has hooks.*use the model unfused"):
        model.fuse()


@pytest.mark.parametrize("name", ["", "patches", "norm", "blocks.1", "blocks.0.proj_down"])
def test_hooks_of_a_fused_model_are_not_passed_over(name: str) -> None:
    model = tiny().fuse()
    handle = model.encoder.get_submodule(name).register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"has hooks.*use the model unfused"):
        embedded(model)
    handle.remove()
    embedded(model)


class Doubled(nn.Module):
    """A wrapper like those of adapters: it has its layer's call, not its weight."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *x: Tensor) -> Tensor:
        return 2.0 * self.layer(*x)


@pytest.mark.parametrize("name", PARTS)
def test_replaced_parts_of_an_unfused_model_are_called(name: str) -> None:
    model = tiny()
    before, block = embedded(model), model.encoder.blocks[1]
    setattr(block, name, Doubled(getattr(block, name)))
    assert (embedded(model) - before).norm() > 1e-4 * before.norm()
    with pytest.raises(ValueError, match=rf"blocks\.1\.{name} was replaced \(Doubled\)"):
        model.fuse()


CHANGES: dict[str, Callable[[Encoder], object]] = {
    r"blocks\.1\.proj_down was replaced \(Doubled\)": lambda encoder: setattr(
        encoder.blocks[1], "proj_down", Doubled(encoder.blocks[1].proj_down)
    ),
    r"blocks\.0 was replaced \(Doubled\)": lambda encoder: encoder.blocks.__setitem__(
        0, Doubled(encoder.blocks[0])
    ),
    r"norm was replaced \(Identity\)": lambda encoder: setattr(encoder, "norm", nn.Identity()),
    r"blocks\.1 was removed": lambda encoder: encoder.blocks.__delitem__(1),
    r"the forward of blocks\.1 was replaced": lambda encoder: setattr(
        encoder.blocks[1], "forward", lambda tokens: tokens
    ),
    r"the forward of the encoder was replaced": lambda encoder: setattr(
        encoder, "forward", lambda mel: mel
    ),
    r"the cell of blocks\.1 was replaced": lambda encoder: setattr(
        encoder.blocks[1], "cell", lambda q, k, v, log_i, log_f: v
    ),
}


@pytest.mark.parametrize("message", CHANGES)
def test_changes_of_a_fused_model_are_not_passed_over(message: str) -> None:
    model = tiny().fuse()
    CHANGES[message](model.encoder)
    with pytest.raises(ValueError, match=f"{message}, which.*use the model unfused"):
        embedded(model)


@pytest.mark.parametrize("message", [message for message in CHANGES if "the " in message])
def test_what_fusing_would_drop_is_refused(message: str) -> None:
    model = tiny()
    CHANGES[message](model.encoder)
    with pytest.raises(ValueError, match=message):
        model.fuse()


def test_no_windows() -> None:
    assert Encoder(TINY)(torch.randn(0, 200, 80)).shape == (0, 251, 192)


def test_a_model_that_was_made_in_inference_mode() -> None:
    with torch.inference_mode():
        encoder, mel = lively(TINY), torch.randn(1, 48, 80)
        found = FusedEncoder(encoder, torch.float32)(mel)
    torch.testing.assert_close(found, expected(encoder, mel), rtol=1e-4, atol=1e-4)
