"""The compiled learning of probes against `Stack`, and its random numbers against plain Python."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("heareval", reason="heareval is not installed: make setup")

from hearbench.probes.batched.compiled import BLOCK, CompiledStack, by_blocks
from hearbench.probes.batched.grid import Point, draw
from hearbench.probes.batched.stack import Stack
from tests.helpers.probe_task import SMALL

CPU = torch.device("cpu")
CLASSES, FEATURES = 5, 24
needs_products = pytest.mark.skipif(
    not CompiledStack.is_usable(draw("paper", {}, 0)[0].shape, 8, CPU, torch.float32),
    reason="no compiled products on this machine",
)


def point(**values: float) -> Point:
    grid = {name: given[0] for name, given in SMALL.items()} | values
    space = {name: [value] for name, value in grid.items()}
    return draw("paper", {"evaluation_params": {"task_specific_param_grid": space}}, 0)[0]


def stacks(dtype: torch.dtype, probes: int = 2, **values: float) -> tuple[Stack, CompiledStack]:
    points = [point(**values)] * probes
    entropies = [(probe, 0) for probe in range(probes)]
    data = (FEATURES, CLASSES, CPU, dtype)
    return Stack(points, entropies, *data), CompiledStack(points, entropies, *data)


def task(clips: int, multilabel: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(clips, FEATURES, generator=generator)
    if multilabel:
        return x, (torch.rand(clips, CLASSES, generator=generator) < 0.3).float()
    return x, torch.eye(CLASSES)[torch.randint(CLASSES, (clips,), generator=generator)]


def learn(stack: Stack, x: Tensor, y: Tensor, steps: int, multilabel: bool = False) -> None:
    for _ in range(steps):
        for batch in stack.batches(x, y):
            stack.learn(batch, multilabel)


def arranged(stack: Stack, tensors: list[Tensor]) -> list[Tensor]:
    """Tensors as the parameters of a `Stack`, as the other one has them."""
    weight, scale, shift, out, bias = tensors
    weight = torch.stack([by_blocks(weight[:, probe]) for probe in range(len(stack))])
    return [weight, scale, shift, out.mT, bias]


def error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@needs_products
@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize(
    ("clips", "hidden"), [(5, 16), (7, 48), (8, 32), (31, 80), (32, 96), (67, 112)]
)
def test_learns_as_a_stack(clips: int, hidden: int, multilabel: bool) -> None:
    """In float32, from the same start: the same parameters, statistics, moments and logits."""
    theirs, ours = stacks(torch.float32, hidden_dim=hidden, dropout=0.0)
    x, y = task(clips, multilabel)
    for stack in (theirs, ours):
        learn(stack, x, y, 5, multilabel)
    for theirs_of, ours_of in zip(
        (theirs.parameters, *theirs.moments), (ours.parameters, *ours.moments), strict=True
    ):
        for expected, found in zip(arranged(theirs, theirs_of), ours_of, strict=True):
            torch.testing.assert_close(found, expected.detach(), atol=2e-5, rtol=2e-4)
    assert error(ours.means[0], theirs.means[0]) < 1e-5
    assert error(ours.variances[0], theirs.variances[0]) < 1e-5
    assert error(ours.logits(x), theirs.logits(x)) < 1e-4


@needs_products
def test_rounded_gradients() -> None:
    """The first moments after one step are a tenth of the gradients."""
    theirs, ours = stacks(torch.bfloat16, hidden_dim=80, dropout=0.0)
    exact, _ = stacks(torch.float32, hidden_dim=80, dropout=0.0)
    x, y = task(31)
    for stack in (theirs, ours, exact):
        learn(stack, x, y, 1)
    expected = arranged(exact, exact.moments[0])
    for rounded, found, exactly in zip(
        arranged(theirs, theirs.moments[0]), ours.moments[0], expected, strict=True
    ):
        assert error(found, exactly) < max(2e-2, 2 * error(rounded, exactly))


@needs_products
def test_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units that the compiled numbers drop in a `Stack`, too, lead to the same parameters."""
    theirs, ours = stacks(torch.float32, probes=1, hidden_dim=112, dropout=0.25)
    x, y = task(31)
    learn(ours, x, y, 1)
    numbers = ours._memory.empty("numbers", y, 31 * 112, dtype=torch.int16)
    kept = torch.cat([block.view(31, -1) for block in numbers.split(31 * BLOCK)], 1) >= -(1 << 14)
    assert kept.double().mean().item() == pytest.approx(0.75, abs=0.03)
    monkeypatch.setattr(theirs.dropouts[0], "draw", lambda out: out.copy_(kept / 0.75))
    learn(theirs, x, y, 1)
    for expected, found in zip(arranged(theirs, theirs.parameters), ours.parameters, strict=True):
        torch.testing.assert_close(found, expected.detach(), atol=2e-5, rtol=2e-4)


@needs_products
def test_random_numbers() -> None:
    """Of each lane, what xoshiro128++ gives by its definition (Blackman and Vigna, 2021)."""

    def rotated(x: int, by: int) -> int:
        return (x << by | x >> 32 - by) & 0xFFFFFFFF

    _, ours = stacks(torch.float32, probes=1, hidden_dim=32)
    lanes = (ours.dropouts[0].state.T.long() & 0xFFFFFFFF).tolist()
    learn(ours, *task(8), steps=1)
    numbers = ours._memory.empty("numbers", ours.means[0], 8 * 32, dtype=torch.int16)
    drawn = (numbers.view(torch.int32).view(-1, 16).long() & 0xFFFFFFFF).tolist()
    for row in drawn:
        for lane, found in zip(lanes, row, strict=True):
            a, b, c, d = lane
            assert found == (rotated((a + d) & 0xFFFFFFFF, 7) + a) & 0xFFFFFFFF
            c, d = c ^ a, d ^ b
            lane[:] = a ^ d, b ^ c, c ^ (b << 9 & 0xFFFFFFFF), rotated(d, 11)


@needs_products
def test_probes_that_leave() -> None:
    """What stays learns on as if it had been alone, and the best states stay where they were."""
    (_, alone), (_, among) = (stacks(torch.bfloat16, probes, dropout=0.1) for probes in (1, 3))
    x, y = task(40)
    learn(alone, x, y, 2)
    learn(among, x, y, 2)
    among.remember([0, 2])
    best = among.logits(x, best=True)
    among.keep([0])
    assert torch.equal(among.logits(x), alone.logits(x))
    assert torch.equal(among.logits(x, best=True), best[:1])
    learn(alone, x, y, 2)
    learn(among, x, y, 2)
    assert torch.equal(among.logits(x), alone.logits(x))
    assert not torch.equal(among.logits(x), best[:1])


@pytest.mark.parametrize(
    "unfit", [{"hidden_layers": 2}, {"hidden_layers": 0}, {"hidden_dim": 40}], ids=str
)
def test_other_probes_go_by_torch(unfit: dict[str, float]) -> None:
    assert not CompiledStack.is_usable(point(**unfit).shape, 24, CPU, torch.float32)
    assert not CompiledStack.is_usable(point().shape, 20, CPU, torch.float32)
    assert not CompiledStack.is_usable(point().shape, 24, torch.device("meta"), torch.float32)


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEAR_AXLSTM_NATIVE", "0")
    assert not CompiledStack.is_usable(point().shape, 24, CPU, torch.float32)
