"""Batches: every clip once an epoch, standardized as a whole, repeatable from (seed, step)."""

import numpy as np
import pytest
import soundfile
import torch

from hear_axlstm.data.corpus import Corpus
from hear_axlstm.data.dataset import CropDataset, split_held_out
from hear_axlstm.data.pack import pack
from hear_axlstm.data.prefetch import prefetch
from hear_axlstm.mel import standardize

CLIPS = 60


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for number in range(CLIPS):
        samples = rng.normal(0, 0.1, rng.integers(4_000, 80_000))  # 0.25 to 5 s
        soundfile.write(folder / f"{number:02d}.wav", samples, 16_000)
    pack(folder, folder / "pack", workers=1)
    return Corpus(folder / "pack")


def dataset(corpus: Corpus, batch_size: int = 16, seed: int = 0) -> CropDataset:
    return CropDataset(corpus, np.arange(len(corpus)), 200, batch_size, seed)


def whole_clip(corpus: Corpus, clip: int) -> torch.Tensor:
    """A clip standardized and, where too short, repeated: what crops are cut from."""
    frames = standardize(torch.from_numpy(corpus.clip(clip).astype(np.float32)))
    return frames.repeat(-(-200 // len(frames)), 1)


def locate(corpus: Corpus, crop: torch.Tensor) -> tuple[int, int]:
    """Clip and first frame of a crop, found by looking for it in all clips."""
    for clip in range(len(corpus)):
        frames = whole_clip(corpus, clip)
        for start in (frames[: len(frames) - 199] - crop[0]).abs().amax(1).lt(1e-5).nonzero():
            torch.testing.assert_close(crop, frames[start : start + 200], atol=1e-5, rtol=0)
            return clip, int(start)
    raise AssertionError("the crop is no part of any clip")


def test_an_epoch_has_each_clip_once(corpus: Corpus) -> None:
    data = dataset(corpus, batch_size=CLIPS)
    first, second = ([locate(corpus, crop)[0] for crop in data.batch(step)] for step in range(2))
    assert sorted(first) == sorted(second) == list(range(CLIPS))
    assert first != second and first != sorted(first)


def test_batches_may_span_epochs(corpus: Corpus) -> None:
    small, large = dataset(corpus, batch_size=15), dataset(corpus, batch_size=150)
    torch.testing.assert_close(
        large.batch(0), torch.cat([small.batch(step) for step in range(10)]), rtol=0, atol=0
    )
    assert large.epoch_at(2) == 5.0 and large.steps(5) == 2 and large.steps(0.01) == 1


def test_crops_differ_from_epoch_to_epoch_and_reach_both_ends(corpus: Corpus) -> None:
    frames = np.where(corpus.index.frames > 205, corpus.index.frames, 10_000)
    clip = np.array([int(frames.argmin())])  # hardly longer than a crop: few places to cut it
    data = CropDataset(corpus, clip, 200, 1, seed=0)
    starts = {locate(corpus, data.batch(step)[0])[1] for step in range(200)}
    assert starts == set(range(frames.min() - 199))


def test_a_batch_follows_from_seed_and_step_alone(corpus: Corpus) -> None:
    fresh = dataset(corpus).batch(9)
    used = dataset(corpus)
    for step in (30, 2, 9, 0):
        used.batch(step)
    assert torch.equal(used.batch(9), fresh)
    assert not torch.equal(dataset(corpus, seed=1).batch(9), fresh)
    masks = [dataset(corpus).masks(step, patches=250, ratio=0.5) for step in (9, 9, 10)]
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[1], masks[2])
    assert masks[0].shape == (16, 250) and (masks[0].sum(1) == 125).all()


def test_held_out_clips_are_fixed_and_apart(corpus: Corpus) -> None:
    train, held_out = split_held_out(corpus)
    assert len(held_out) == 3
    assert sorted([*train, *held_out]) == list(range(CLIPS))
    assert np.array_equal(split_held_out(corpus)[1], held_out)


def test_prefetch_keeps_the_order_and_passes_errors_on() -> None:
    assert list(prefetch(lambda step: step * step, 3, 7)) == [9, 16, 25, 36]
    with pytest.raises(ZeroDivisionError):
        list(prefetch(lambda step: 1 // (2 - step), 0, 4))
