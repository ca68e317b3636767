"""One step: parts that add up, numbers that are not finite, memory that runs out."""

from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from hear_axlstm.config import Architecture, ModelConfig
from hear_axlstm.models import encoder
from hear_axlstm.models.patch_embed import random_mask
from hear_axlstm.models.pretraining import MaskedPatchModel
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.pretrain.step import make_train_step
from hear_axlstm.training.checkpoints import collect
from hear_axlstm.training.distributed import DistContext
from hear_axlstm.training.optimizer import adamw, parameter_groups
from hear_axlstm.training.schedule import Schedule
from hear_axlstm.training.step import TrainStep
from tests.helpers.runs import CONFIG, MODEL

CPU = torch.device("cpu")


class Regression(nn.Module):
    """A model small enough to check a step by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, mel: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (self.linear(mel) - 1).square().mean()


def regression(config: PretrainConfig = CONFIG) -> TrainStep:
    torch.manual_seed(0)
    return make_train_step(Regression(), config, DistContext(CPU))


def learn(train_step: TrainStep, mel: torch.Tensor, mask: torch.Tensor) -> bool:
    return train_step.step((mel, mask), 0, lambda peak: 0.01)


def state(train_step: TrainStep) -> list[torch.Tensor]:
    tensors = collect(train_step.model, train_step.optimizers, {})
    return [tensor.clone() for tensor in tensors.values()]


def test_micro_batches_add_up_to_the_batch() -> None:
    mel, mask = torch.randn(8, 5, 4), torch.zeros(8, 5, dtype=torch.bool)
    train_steps = [regression(replace(CONFIG, micro_batch=size)) for size in (8, 3)]
    for train_step in train_steps:
        learn(train_step, mel, mask)
    whole, parts = (state(train_step) for train_step in train_steps)
    torch.testing.assert_close(whole, parts)
    assert train_steps[0].take_metrics() == pytest.approx(train_steps[1].take_metrics())


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    train_step = regression()
    mel, mask = torch.randn(8, 5, 4), torch.zeros(8, 5, dtype=torch.bool)
    learn(train_step, mel, mask)
    before = state(train_step)
    learn(train_step, mel * torch.nan, mask)
    learn(train_step, mel * torch.inf, mask)
    assert all(map(torch.equal, state(train_step), before))
    sums = train_step.take_metrics()
    assert (sums["skipped"], sums["in_a_row"]) == (2, 2) and np.isfinite(sums["loss"])
    learn(train_step, mel, mask)
    assert not all(map(torch.equal, state(train_step), before))
    assert train_step.take_metrics()["in_a_row"] == 0


def test_a_smaller_micro_batch_is_tried_when_memory_runs_out() -> None:
    train_step = regression()
    train_step.micro_batch = 8
    forward = train_step.model.forward

    def small_memory(mel: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if len(mel) > 2:
            raise torch.OutOfMemoryError
        return forward(mel, mask)

    train_step.model.forward = small_memory  # type: ignore[method-assign]
    assert learn(train_step, torch.randn(8, 5, 4), torch.zeros(8, 5, dtype=torch.bool))
    assert train_step.micro_batch == 2


def test_learning_rate_follows_the_paper() -> None:
    assert PretrainConfig().peak_lr == pytest.approx(6e-4)
    rates = [Schedule(100, 10).rate(step, 1.0) for step in range(100)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90)
    for rate in rates[10:]:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        cosine.step()


def test_only_weights_decay() -> None:
    model = nn.ModuleDict({"linear": nn.Linear(3, 4), "norm": nn.LayerNorm(4)})
    decayed, spared = adamw(parameter_groups(model.named_parameters(), 0.01, 0.05)).param_groups
    assert [p.shape for p in decayed["params"]] == [(4, 3)] and decayed["weight_decay"] == 0.05
    assert len(spared["params"]) == 3 and spared["weight_decay"] == 0.0


def learned(config: ModelConfig, compile: bool = False, again: bool = False) -> list[torch.Tensor]:
    """State after one step on two clips."""
    torch.manual_seed(0)
    model = MaskedPatchModel(config)
    model.encoder.checkpoint_blocks = again
    train_step = make_train_step(
        model, replace(CONFIG, batch_size=2, compile=compile), DistContext(CPU)
    )
    mask = random_mask(2, config.grid[0] * config.grid[1], 0.5)
    assert learn(train_step, torch.randn(2, config.window_frames, 80), mask)
    return state(train_step)


@pytest.mark.parametrize("architecture", ["axlstm", "ssast"])
def test_computing_activations_again_changes_no_gradient(
    architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(MODEL, architecture=architecture, depth=2)
    checkpoint = Mock(wraps=encoder.checkpoint)
    monkeypatch.setattr(encoder, "checkpoint", checkpoint)
    kept, again = learned(config), learned(config, again=True)
    assert checkpoint.called and all(map(torch.equal, kept, again))


def test_a_compiled_model_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated by the compiler, but not translated: that takes minutes."""
    traced = Mock(wraps=partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(torch, "compile", traced)
    torch.testing.assert_close(learned(MODEL, compile=True), learned(MODEL))
    traced.assert_called_once()
