"""Recipes and estimates of runs: the paper's numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from hear_axlstm import cli
from hear_axlstm.cli import pretrain as command
from hear_axlstm.config import PRESETS, ModelConfig
from hear_axlstm.models.pretraining import training_flops
from hear_axlstm.pretrain.config import PretrainConfig, Variant
from hear_axlstm.pretrain.estimate import audioset_bytes, estimate_run
from hear_axlstm.pretrain.recipes import OPEN_RECIPE, RECIPES
from hear_axlstm.pretrain.step import make_model


def test_every_recipe_follows_the_papers_schedule() -> None:
    assert {(c.epochs, c.warmup, c.batch_size) for c in RECIPES.values()} == {(100, 10, 1024)}
    assert [c.peak_lr for c in RECIPES.values()] == pytest.approx([6e-4] * len(RECIPES))


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], PretrainConfig]:
    """Settings that the options of `axlstm pretrain` make."""

    def parse(options: str) -> PretrainConfig:
        found: list[PretrainConfig] = []
        monkeypatch.setattr(command, "estimate_run", lambda config, corpus: found.append(config))
        cli.parse("pretrain", ["pretrain", "--estimate", *options.split()])
        return found[0]

    return parse


def test_options_override_a_recipe(parsed: Callable[[str], PretrainConfig]) -> None:
    config = parsed("--recipe ssast_tiny_4x8 --epochs 3 --seed 1")
    assert config == replace(RECIPES["ssast_tiny_4x8"], epochs=3, seed=1)
    ours = parsed("--recipe open-corpus --model ssast_tiny --seed 1")
    assert ours == replace(OPEN_RECIPE, model=PRESETS["ssast_tiny"], seed=1)
    assert parsed("--epochs 2") == replace(PretrainConfig(), epochs=2)


def test_options_with_the_papers_values_override_a_recipe_too(
    parsed: Callable[[str], PretrainConfig],
) -> None:
    config = parsed("--epochs 100 --schedule cosine --recipe=open-corpus --balance 0")
    assert config == replace(OPEN_RECIPE, epochs=100, schedule="cosine", balance=0.0)


def test_an_unknown_recipe_is_refused(parsed: Callable[[str], PretrainConfig]) -> None:
    with pytest.raises(ValueError, match="unknown recipe 'tiny'"):
        parsed("--recipe tiny")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--recipe axlstm_tiny_e2 --expansion 3", "defines the model: leave out expansion"),
        ("--recipe ssast_tiny --model axlstm_tiny", "defines the model: leave out model"),
        (
            "--model ssast_tiny --expansion 5 --input-gate sigmoid",
            "no expansion, input_gate: leave",
        ),
        ("--expansion 0", "expansion=0 must be a whole number from 1 to 64"),
    ],
)
def test_settings_of_the_model_that_would_be_ignored_are_refused(
    typed: str, message: str, parsed: Callable[[str], PretrainConfig]
) -> None:
    with pytest.raises(ValueError, match=message):
        parsed(typed)


def test_a_variant_is_what_was_said_of_it() -> None:
    assert Variant().build() == PRESETS["axlstm_tiny"]
    found = Variant("ssast_small", patch=(8, 16), loss_on="all").build()
    assert found == replace(PRESETS["ssast_small"], patch=(8, 16), loss_on="all")


def test_the_run_and_its_estimate_have_the_same_model() -> None:
    config = PretrainConfig(model=ModelConfig(dim=32, depth=1), checkpoint_blocks=True)
    assert make_model(config, torch.device("cpu")).encoder.checkpoint_blocks


def test_the_estimate_adds_up() -> None:
    config = PretrainConfig(model=ModelConfig(dim=32, depth=1), device="cpu", precision="float32")
    before = torch.get_rng_state()
    card = estimate_run(config, seconds=0.2)
    assert torch.equal(torch.get_rng_state(), before)
    assert (card.clips, card.steps, card.disk_bytes) == (2_000_000, 195_312, 320_320_000_000)
    assert card.flops == 1024 * training_flops(config.model)
    assert card.hours == pytest.approx(195_312 * 1024 / card.clips_per_second / 3600)
    assert 1 <= card.measured_clips <= 1024 and card.peak_bytes > 16 * card.parameters
    assert replace(card, clips_per_second=2 * card.clips_per_second).hours == card.hours / 2
    assert "195,312 steps" in str(card) and "320.3 GB" in str(card)


def test_a_frame_of_audioset_takes_two_bytes_a_bin() -> None:
    mel = ModelConfig().mel
    assert audioset_bytes(mel) == 2_000_000 * 1001 * 80 * 2
    assert audioset_bytes(replace(mel, n_mels=40)) == audioset_bytes(mel) // 2
