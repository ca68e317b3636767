"""Inference on a CPU against the encoder that training uses."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as nnf

from hear_axlstm.config import PRESETS, ModelConfig, preset
from hear_axlstm.encoder import Encoder
from hear_axlstm.inference import encode_windows
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.pretrain.optimizer import adamw

TINY = preset("axlstm_tiny")


def lively(config: ModelConfig) -> Encoder:
    """An encoder whose every weight matters: gates and norms away from their initial zeros."""
    torch.manual_seed(0)
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
    optimizer = adamw(encoder, PretrainConfig(lr=0.01))

    def learn() -> None:
        encoder(mel).square().mean().backward()
        optimizer.step()

    def scale_data() -> None:
        encoder.blocks[0].skip.data.mul_(3.0)

    def replace_one() -> None:
        encoder.blocks[3].up = type(encoder.blocks[3].up)(192, 1152, bias=False)

    changes = [
        learn,
        lambda: encoder.load_state_dict(lively(replace(TINY, mask_ratio=0.4)).state_dict()),
        scale_data,
        replace_one,
    ]
    for change in changes:
        encode_windows(encoder, mel, precision)
        change()
        found = encode_windows(encoder, mel, precision)
        cosine = nnf.cosine_similarity(found, expected(encoder, mel), dim=-1)
        assert cosine.min() > 0.99


def test_a_model_that_was_made_in_inference_mode() -> None:
    with torch.inference_mode():
        encoder, mel = lively(TINY), torch.randn(1, 48, 80)
        found = encode_windows(encoder, mel, torch.float32)
    torch.testing.assert_close(found, expected(encoder, mel), rtol=1e-4, atol=1e-4)


def test_threads_are_left_as_they_were() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        encode_windows(lively(TINY), torch.randn(3, 48, 80), torch.float32)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
