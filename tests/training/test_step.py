"""One step: parts that add up, numbers that are not finite, memory that runs out."""

from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from hear_axlstm.config import ModelConfig
from hear_axlstm.models import encoder
from hear_axlstm.models.patch_embed import random_mask
from hear_axlstm.models.pretraining import MaskedPatchModel
from hear_axlstm.ops import backends
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.pretrain.step import make_optimizers, make_train_step
from hear_axlstm.training.checkpoints import collect
from hear_axlstm.training.distributed import DistContext
from hear_axlstm.training.optimizer import adamw, parameter_groups
from hear_axlstm.training.step import CONSECUTIVE_BAD, TrainStep
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
    assert (sums["skipped"], sums[CONSECUTIVE_BAD]) == (2, 2) and np.isfinite(sums["loss"])
    learn(train_step, mel, mask)
    assert not all(map(torch.equal, state(train_step), before))
    assert train_step.take_metrics()[CONSECUTIVE_BAD] == 0


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

    def no_memory(mel: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError

    train_step.model.forward = no_memory  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError, match=r"micro-batch of 1 .*: use a smaller model"):
        learn(train_step, torch.randn(8, 5, 4), torch.zeros(8, 5, dtype=torch.bool))


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
    architecture: str, monkeypatch: pytest.MonkeyPatch
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


def test_the_backend_is_chosen_before_the_model_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen: dict[str, str] = {}
    monkeypatch.setattr(backends, "_chosen", chosen)
    monkeypatch.setattr(torch, "compile", lambda model: dict(chosen))
    config = replace(CONFIG, compile=True)
    assert "cpu" in make_train_step(MaskedPatchModel(MODEL), config, DistContext(CPU)).loss


def test_the_average_is_the_exponential_one() -> None:
    train_step = regression(replace(CONFIG, ema=0.5))
    assert train_step.average is not None
    mel, mask = torch.randn(8, 5, 4), torch.zeros(8, 5, dtype=torch.bool)
    expected = train_step.parameters[0].detach().clone()
    for number in range(8):
        train_step.step((mel, mask), number, lambda peak: 0.01)
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * train_step.parameters[0].detach()
    torch.testing.assert_close(train_step.average.tensors["linear.weight"], expected)
    own = train_step.parameters[0].detach().clone()
    with train_step.average.applied():
        torch.testing.assert_close(train_step.parameters[0].detach(), expected)
    assert torch.equal(train_step.parameters[0].detach(), own)


def test_muon_takes_the_matrices_of_the_blocks() -> None:
    model = MaskedPatchModel(MODEL)
    adamw_, muon_ = make_optimizers(model, replace(CONFIG, optimizer="muon"))
    owned = [p for group in muon_.param_groups for p in group["params"]]
    names = [name for name, p in model.named_parameters() if any(p is own for own in owned)]
    assert len(names) == 2 and all(".blocks.0." in name for name in names)
    rest = [p for group in adamw_.param_groups for p in group["params"]]
    assert len(rest) + len(owned) == len(list(model.parameters()))


def test_a_rank_without_validation_clips_leaves_the_loss_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def add_other_rank(_: DistContext, tensors: list[torch.Tensor]) -> None:
        for tensor, value in zip(tensors, (6.0, 3.0), strict=True):
            tensor += value

    train_step = regression()
    monkeypatch.setattr(DistContext, "all_reduce", add_other_rank)
    empty = torch.zeros(0, 5, 4), torch.zeros(0, 5, dtype=torch.bool)
    assert train_step.evaluate(empty) == 2.0
