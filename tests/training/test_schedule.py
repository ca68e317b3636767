"""Learning rates: the paper's cosine, and warm-up, stable, decay."""

import numpy as np
import pytest
import torch
from torch import nn

from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.training.schedule import Schedule


def test_the_cosine_follows_the_paper() -> None:
    assert PretrainConfig().peak_lr == pytest.approx(6e-4)
    rates = [Schedule(100, 10).lr(step, 1.0) for step in range(100)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90)
    for rate in rates[10:]:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        cosine.step()


def test_a_longer_wsd_run_begins_as_a_shorter_one() -> None:
    short, long = Schedule(100, 10, 20), Schedule(150, 10, 30)
    assert (short.stable_steps, long.stable_steps) == (80, 120)
    rates = [[schedule.lr(step, 2.0) for step in range(100)] for schedule in (short, long)]
    assert rates[0][:80] == rates[1][:80] and rates[0][10:80] == [2.0] * 70
    cooldown = rates[0][80:]
    assert cooldown == sorted(cooldown, reverse=True)
    assert cooldown[10] == pytest.approx(2 * (1 - 0.5**0.5)) and 0 < cooldown[-1] < 0.1
