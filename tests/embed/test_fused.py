"""Inference on a CPU against the encoder that training uses."""

from dataclasses import replace
from threading import Event, Timer

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from hear_axlstm.config import PRESETS, ModelConfig, preset
from hear_axlstm.embed.fused import encode_windows
from hear_axlstm.models.encoder import Encoder
from hear_axlstm.ops.cores import on_each_core
from hear_axlstm.training.optimizer import adamw, parameter_groups

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
    found = encode_windows(encoder, mel, torch.float32)
    torch.testing.assert_close(found, expected(encoder, mel), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PRESETS)
def test_bfloat16_keeps_the_direction(name: str) -> None:
    encoder, mel = lively(preset(name)), torch.randn(2, 200, 80)
    found = encode_windows(encoder, mel, torch.bfloat16)
    assert found.dtype == torch.float32
    cosine = nnf.cosine_similarity(found, expected(encoder, mel), dim=-1)
    assert cosine.mean() > 0.998
    scenes = nnf.cosine_similarity(found.mean(1), expected(encoder, mel).mean(1), dim=-1)
    assert scenes.min() > 0.999


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_changed_weights_count(precision: torch.dtype) -> None:
    """Folded weights are kept; every way of changing the originals must make them anew."""
    encoder, mel = lively(TINY), torch.randn(1, 48, 80)
    optimizer = adamw(parameter_groups(encoder.named_parameters(), 0.01, 0.05))

    def learn() -> None:
        encoder(mel).square().mean().backward()
        optimizer.step()

    def scale_data() -> None:
        encoder.blocks[0].skip.data.mul_(3.0)

    def turn_signs() -> None:
        encoder.blocks[0].skip.data.neg_()

    def replace_one() -> None:
        encoder.blocks[3].up = type(encoder.blocks[3].up)(192, 1152, bias=False)

    def replace_a_block() -> None:
        encoder.blocks[5] = lively(TINY, seed=2).blocks[5]

    changes = [
        learn,
        lambda: encoder.load_state_dict(lively(TINY, seed=1).state_dict()),
        scale_data,
        turn_signs,
        replace_one,
        replace_a_block,
    ]
    for change in changes:
        stale = encode_windows(encoder, mel, precision)
        change()
        found = encode_windows(encoder, mel, precision)
        error, old_error = (x - expected(encoder, mel) for x in (found, stale))
        assert error.norm() < (1e-4 if precision == torch.float32 else 0.5) * old_error.norm()


PARTS = ("norm", "up", "conv", "q", "input_gate_map", "forget_gate_map", "head_norm", "down")


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_hooks_are_called(precision: torch.dtype) -> None:
    encoder, mel = lively(TINY), torch.randn(1, 48, 80)
    before = encode_windows(encoder, mel, precision)
    block, calls = encoder.blocks[2], []
    for name in PARTS:
        getattr(block, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    block.register_forward_pre_hook(lambda *_: calls.append("block"))
    found = encode_windows(encoder, mel, precision)
    assert sorted(calls) == sorted((*PARTS, "block"))
    limit = 1e-4 if precision == torch.float32 else 0.1
    torch.testing.assert_close(found, before, rtol=0, atol=limit * before.abs().max().item())
    expected(encoder, mel)  # as in training
    assert len(calls) == 2 * len(set(calls))


class Doubled(nn.Module):
    """A wrapper like those of adapters: it has its layer's call, not its weight."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * self.layer(x)


@pytest.mark.parametrize("name", PARTS)
def test_wrapped_parts_count(name: str) -> None:
    encoder, doubled, mel = lively(TINY), lively(TINY), torch.randn(1, 48, 80)
    encode_windows(encoder, mel, torch.float32)
    part = getattr(encoder.blocks[1], name)
    setattr(encoder.blocks[1], name, Doubled(part))
    weights = dict(getattr(doubled.blocks[1], name).named_parameters())
    with torch.no_grad():
        if name in ("norm", "head_norm"):
            weights["weight"].add_(1.0).mul_(2.0).sub_(1.0)
        elif name != "conv":
            for weight in weights.values():
                weight.mul_(2.0)
        else:
            doubled.blocks[1].conv.register_forward_hook(lambda _, __, out: 2.0 * out)
    found = encode_windows(encoder, mel, torch.float32)
    torch.testing.assert_close(found, expected(encoder, mel), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, expected(doubled, mel), rtol=1e-4, atol=1e-4)


def test_weight_norm_counts() -> None:
    encoder, mel = lively(TINY), torch.randn(1, 48, 80)
    before = encode_windows(encoder, mel, torch.float32)
    up = nn.utils.parametrizations.weight_norm(encoder.blocks[0].up)
    torch.testing.assert_close(encode_windows(encoder, mel, torch.float32), before)
    up.parametrizations.weight.original0.data.mul_(3.0)
    found = encode_windows(encoder, mel, torch.float32)
    assert (found - before).norm() > 0.01 * before.norm()
    torch.testing.assert_close(found, expected(encoder, mel), rtol=1e-4, atol=1e-4)


def test_the_form_of_a_block_counts() -> None:
    encoder, mel = lively(TINY), torch.randn(1, 48, 80)
    encoder.blocks[0].form = "slow"
    with pytest.raises(ValueError, match=r"'slow'.* is no form: use one of auto, parallel"):
        encode_windows(encoder, mel, torch.float32)
    encoder.blocks[0].form = "chunkwise"
    found = encode_windows(encoder, mel, torch.float32)
    torch.testing.assert_close(found, expected(encoder, mel), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("native", ["0", "1"])
def test_no_windows(native: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEAR_AXLSTM_NATIVE", native)
    assert Encoder(TINY)(torch.randn(0, 200, 80)).shape == (0, 251, 192)


def test_a_model_that_was_made_in_inference_mode() -> None:
    with torch.inference_mode():
        encoder, mel = lively(TINY), torch.randn(1, 48, 80)
        found = encode_windows(encoder, mel, torch.float32)
    torch.testing.assert_close(found, expected(encoder, mel), rtol=1e-4, atol=1e-4)


def test_threads_are_left_as_they_were() -> None:
    """Also for threads that are born while others work alone."""
    before, seen = torch.get_num_threads(), []

    def work(item: int) -> int:
        assert started.wait(60)
        return torch.get_num_threads()

    def begin() -> None:
        seen.append(torch.get_num_threads())
        started.set()

    torch.set_num_threads(3)
    started, later = Event(), Timer(0.5, begin)
    later.start()
    try:
        assert on_each_core(work, range(5)) == [1] * 5
        assert torch.get_num_threads() == 3 and seen == [3]
    finally:
        torch.set_num_threads(before)


def test_mistakes_on_a_core_are_raised() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError):
            on_each_core(lambda item: 1 // item, range(3))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
