"""Patches, masks, blocks, encoder and the pretraining model."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hear_axlstm import checkpoints, get_scene_embeddings, load_model
from hear_axlstm.checkpoints.model_card import write_card
from hear_axlstm.config import PATCHES, PRESETS, InputGate, MelConfig, ModelConfig, preset
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.models.encoder import BLOCKS, Encoder
from hear_axlstm.models.layers import BlockDiagonalLinear, CausalConv
from hear_axlstm.models.mlstm import MLSTMBlock
from hear_axlstm.models.patch_embed import (
    apply_mask,
    patchify,
    random_mask,
    sincos_positions,
    unpatchify,
)
from hear_axlstm.models.pretraining import MaskedPatchModel, training_flops
from hear_axlstm.models.tensor_names import file_name

SMALL = ModelConfig(dim=48, depth=2)


def test_patches_are_time_major_and_come_back() -> None:
    mel = torch.arange(2 * 200 * 80.0).view(2, 200, 80)
    patches = patchify(mel, (4, 16))
    assert patches.shape == (2, 250, 64)
    # token 7 is time step 1, frequency patch 2
    torch.testing.assert_close(patches[1, 7], mel[1, 4:8, 32:48].flatten())
    torch.testing.assert_close(unpatchify(patches, (4, 16), (50, 5)), mel)


def test_positions_hold_frequency_first_sines_before_cosines() -> None:
    positions = sincos_positions((50, 5), 192).numpy()
    time, frequency = 31, 3
    rates = 10_000.0 ** (-np.arange(48) / 48)
    expected = np.concatenate(
        [wave(i * rates) for i in (frequency, time) for wave in (np.sin, np.cos)]
    )
    np.testing.assert_allclose(positions[time * 5 + frequency], expected, atol=1e-6)


def test_masks_hide_exactly_their_share() -> None:
    mask = random_mask(64, 250, 0.5, torch.Generator().manual_seed(0))
    assert (mask.sum(1) == 125).all()
    assert len({tuple(row.tolist()) for row in mask}) == 64
    tokens, mask_token = torch.randn(64, 250, 8), torch.randn(8)
    masked = apply_mask(tokens, mask, mask_token)
    assert (masked[mask] == mask_token).all() and (masked[~mask] == tokens[~mask]).all()


@pytest.mark.parametrize("tokens", [1, 2, 30])
def test_convolution_equals_torch_conv1d(tokens: int) -> None:
    conv, x = CausalConv(12), torch.randn(2, tokens, 12, requires_grad=True)
    expected = torch.nn.functional.conv1d(
        torch.nn.functional.pad(x.transpose(1, 2), (3, 0)),
        conv.weight.T[:, None],
        conv.bias,
        groups=12,
    ).transpose(1, 2)
    expected = torch.nn.functional.silu(expected)
    torch.testing.assert_close(conv(x), expected, rtol=1e-5, atol=1e-6)
    found = torch.autograd.grad(conv(x).square().sum(), [*conv.parameters(), x])
    wanted = torch.autograd.grad(expected.square().sum(), [*conv.parameters(), x])
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [48, 92, 576])
def test_block_diagonal_map_equals_its_dense_matrix(width: int) -> None:
    layer, x = BlockDiagonalLinear(width, std=0.1), torch.randn(2, 9, width)
    dense = torch.block_diag(*layer.weight)  # weight[g] maps in -> out as [out, in]
    torch.testing.assert_close(layer(x), x @ dense.T, rtol=1e-5, atol=1e-6)


def test_a_reversed_block_reads_backwards() -> None:
    torch.manual_seed(0)
    forward, backward = MLSTMBlock(SMALL), MLSTMBlock(replace(SMALL, flip=True), index=1)
    backward.load_state_dict(forward.state_dict())
    x = torch.randn(2, 20, 48)
    torch.testing.assert_close(backward(x), forward(x.flip(1)).flip(1))


def test_only_flip_lets_tokens_see_what_follows() -> None:
    mel = torch.randn(1, 200, 80)
    changed = mel.clone()
    changed[:, 100:] += 1.0
    for flip in (False, True):
        torch.manual_seed(0)
        encoder = MaskedPatchModel(replace(SMALL, flip=flip)).encoder.eval()
        before = slice(1, 1 + 25 * 5)
        same = torch.allclose(encoder(mel)[:, before], encoder(changed)[:, before], atol=1e-5)
        assert same is not flip


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("architecture", BLOCKS)
@pytest.mark.parametrize("input_gate", get_args(InputGate))
def test_every_variant_learns(
    patch: tuple[int, int], architecture: str, input_gate: InputGate
) -> None:
    torch.manual_seed(0)
    config = replace(SMALL, patch=patch, architecture=architecture, input_gate=input_gate)
    model = MaskedPatchModel(config)
    mel = torch.randn(2, 200, 80)
    mask = random_mask(2, config.grid[0] * config.grid[1], 0.5)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-3), []
    for _ in range(4):
        optimizer.zero_grad()
        loss = model(mel, mask)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert 0.5 < losses[0] < 10 and losses[-1] < losses[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


class LinearBlock(nn.Module):
    """As little as a block needs."""

    def __init__(self, config: ModelConfig, index: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(config.dim, config.dim)

    def forward(self, tokens_BSD: Tensor) -> Tensor:
        return tokens_BSD + self.linear(tokens_BSD)

    @staticmethod
    def inner_dim(config: ModelConfig) -> int:
        return config.dim

    @staticmethod
    def causal(config: ModelConfig) -> bool:
        return True

    @staticmethod
    def flops(config: ModelConfig, tokens: int) -> int:
        return tokens * config.dim**2


def test_another_block_needs_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It trains, embeds, fuses, is saved, loads and gets a card."""
    monkeypatch.setitem(BLOCKS, "linear", LinearBlock)
    config = replace(SMALL, architecture="linear")
    model, mask = MaskedPatchModel(config), random_mask(1, 250, 0.5)
    model(torch.randn(1, 200, 80), mask).backward()
    assert training_flops(config) > 0
    embedder, audio = Embedder(config).eval(), 0.1 * torch.randn(2, 40_000)
    expected = get_scene_embeddings(audio, embedder)
    torch.testing.assert_close(get_scene_embeddings(audio, embedder.fuse()), expected)
    with pytest.raises(ValueError, match="'linear' can't embed a stream, because its blocks"):
        embedder.stream((0.0, 1.0))
    checkpoints.save(tmp_path / "model.safetensors", embedder.unfuse(), {}, torch.float32)
    loaded = load_model(str(tmp_path))
    torch.testing.assert_close(get_scene_embeddings(audio, loaded), expected)
    config, training, tensors = checkpoints.read(tmp_path / "model.safetensors")
    assert "# it: linear audio" in write_card("me/it", config, training, tensors, None)


def test_loss_is_the_mean_square_over_hidden_patches() -> None:
    torch.manual_seed(0)
    model, mel, mask = MaskedPatchModel(SMALL), torch.randn(2, 200, 80), random_mask(2, 250, 0.5)
    error = (model.reconstruct(mel, mask) - patchify(mel, (4, 16))).square().mean(-1)
    torch.testing.assert_close(model(mel, mask), error[mask].mean())
    model.config = replace(SMALL, loss_on="all")
    torch.testing.assert_close(model(mel, mask), error.mean())


def test_a_transformer_tells_hidden_patches_apart_only_by_their_position() -> None:
    for keeps in (False, True):
        torch.manual_seed(0)
        config = replace(SMALL, architecture="ssast", mask_keeps_position=keeps)
        model, mask = MaskedPatchModel(config), random_mask(1, 250, 0.5)
        hidden = model.reconstruct(torch.randn(1, 200, 80), mask)[mask]
        assert torch.allclose(hidden[0].expand_as(hidden), hidden, atol=1e-5) is not keeps


def test_hidden_patches_do_not_reach_the_encoder() -> None:
    torch.manual_seed(0)
    model, mel, mask = MaskedPatchModel(SMALL), torch.randn(1, 200, 80), random_mask(1, 250, 0.5)
    other = patchify(torch.randn(1, 200, 80), (4, 16))
    swapped = torch.where(mask[..., None], other, patchify(mel, (4, 16)))
    swapped_mel = unpatchify(swapped, (4, 16), (50, 5))
    torch.testing.assert_close(model.reconstruct(mel, mask), model.reconstruct(swapped_mel, mask))


PARAMETERS = {
    ("axlstm_tiny", 2): 2_917_408,
    ("axlstm_tiny", 3): 4_343_584,
    ("axlstm_tiny", 4): 5_769_760,
    ("axlstm_small", 2): 11_216_800,
    ("axlstm_small", 3): 16_723_360,
    ("axlstm_small", 4): 22_229_920,
    ("axlstm_base", 2): 43_962_016,
    ("axlstm_base", 3): 65_591_968,
    ("axlstm_base", 4): 87_221_920,
    ("ssast_tiny", 3): 5_401_024,
    ("ssast_small", 3): 21_492_544,
    ("ssast_base", 3): 85_747_264,
}


@pytest.mark.parametrize(("name", "expansion"), PARAMETERS)
def test_parameters_equal_the_reference(name: str, expansion: int) -> None:
    with torch.device("meta"):
        model = MaskedPatchModel(replace(preset(name), expansion=expansion))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name, expansion]


def test_names_in_files_stay() -> None:
    block = MLSTMBlock(SMALL)
    names = "norm up conv conv q k v input_gate_map input_gate_map forget_gate_map forget_gate_map"
    in_file = [name.split(".")[0] for name in block.state_dict()]
    assert sorted(in_file) == sorted([*names.split(), "head_norm", "skip", "down"])
    listed = [file_name(name) for name, _ in block.named_parameters()]
    assert sorted(listed) == sorted(block.state_dict())
    other = copy.deepcopy(MLSTMBlock(SMALL))
    other.load_state_dict(block.state_dict())
    x = torch.randn(1, 20, 48)
    assert torch.equal(other(x), block(x))


def test_config_survives_json_and_refuses_nonsense() -> None:
    for config in PRESETS.values():
        assert ModelConfig.from_dict(config.to_dict()) == config
    for wrong, named in (
        ({"patch": (5, 16)}, "patch"),
        ({"input_gate": "relu"}, "input_gate"),
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"mask_ratio": 0.002}, "mask_ratio=0.002 masks 0 of the 250 patches"),
        ({"mask_ratio": 0.999}, "mask_ratio=0.999 masks 250 of the 250 patches"),
        ({"window_frames": 202}, "window of 202"),
        ({"dim": 30}, "dim=30 must be a multiple of 4"),
    ):
        with pytest.raises(ValueError, match=named):
            ModelConfig(**wrong)  # type: ignore[arg-type]
    for wrong, named in (
        ({"architecture": "mamba"}, "architecture='mamba': choose one of axlstm, ssast"),
        ({"dim": 52, "expansion": 1, "heads": 3}, "inner width 52"),
        ({"architecture": "ssast", "dim": 52, "heads": 3}, "dim=52 must be a multiple of 4 x 3"),
    ):
        with pytest.raises(ValueError, match=named):
            Encoder(ModelConfig(**wrong))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_ffft"):
        ModelConfig.from_dict({"mel": {"n_ffft": 400}})
    with pytest.raises(ValueError, match="axlstm_tiny"):
        preset("axlstm_huge")
    assert MelConfig().n_mels == 80
