"""Batches: every clip once an epoch, standardized as a whole, repeatable from (seed, step)."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hear_axlstm.ahead import prefetch
from hear_axlstm.audio.mel import standardize
from hear_axlstm.config import MelConfig
from hear_axlstm.data.corpus import FIELD, Corpus
from hear_axlstm.data.dataset import (
    CropDataset,
    ResidentCropDataset,
    dataset_class,
    split_validation,
)
from hear_axlstm.data.extract import Features
from hear_axlstm.data.pack import finish, pack, record
from hear_axlstm.data.shards import Shard

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
    assert large.epoch_at(2) == 5.0


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
    train, validation = split_validation(corpus)
    assert len(validation) == 3
    assert sorted([*train, *validation]) == list(range(CLIPS))
    assert np.array_equal(split_validation(corpus)[1], validation)


def test_prefetch_keeps_the_order_and_passes_errors_on() -> None:
    assert list(prefetch(lambda step: step * step, 3, 7)) == [9, 16, 25, 36]
    with pytest.raises(ZeroDivisionError):
        list(prefetch(lambda step: 1 // (2 - step), 0, 4))


def test_batches_stay_what_they_were(tmp_path: Path) -> None:
    """The order, crops and masks of earlier versions: runs that they started resume exactly."""
    rng = np.random.default_rng(0)
    clips = [rng.integers(-9, 9, (n, 4)).astype(np.float16) for n in rng.integers(3, 60, 50)]
    shards = [Shard(tmp_path, number, "", (FIELD,)) for number in range(4)]
    for shard in shards:  # numbers that are exact in any order of operations
        own = range(shard.number * 13, min(shard.number * 13 + 13, 50))
        shard.write(record(Features(f"{n}.wav", clips[n], n, 2 ** (n % 4))) for n in own)
    finish(tmp_path, "numbers", MelConfig(n_mels=4), shards)
    corpus = Corpus(tmp_path)
    train, validation = split_validation(corpus)
    assert validation.tolist() == [11, 17]
    for data in (
        CropDataset(corpus, train, 20, 16, seed=3),
        ResidentCropDataset(corpus, train, 20, 16, 3, torch.device("cpu")),
    ):
        digest = hashlib.sha256()
        for step in (0, 2, 3, 1000):
            digest.update(data.batch(step).numpy().tobytes())
            digest.update(data.masks(step, patches=250, ratio=0.5).numpy().tobytes())
        assert digest.hexdigest().startswith("6dd2b816a0da04d4dbdfe0b0e72edb07")


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_the_same_batch(corpus: Corpus, world_size: int) -> None:
    data = dataset(corpus)
    parts = [data.batch(7, rank, world_size) for rank in range(world_size)]
    sizes = [len(part) for part in parts]
    assert sum(sizes) == 16 and max(sizes) - min(sizes) <= 1
    assert torch.equal(torch.cat(parts), data.batch(7))
    masks = [data.masks(7, 250, 0.5, rank, world_size) for rank in range(world_size)]
    assert [len(mask) for mask in masks] == sizes
    assert torch.equal(torch.cat(masks), data.masks(7, 250, 0.5))


def test_more_ranks_than_clips_leave_some_without(corpus: Corpus) -> None:
    data = dataset(corpus, batch_size=2)
    assert [len(data.batch(0, rank, 3)) for rank in range(3)] == [0, 1, 1]


def test_a_resident_corpus_gives_the_same_crops(corpus: Corpus) -> None:
    mapped = dataset(corpus)
    resident = ResidentCropDataset(
        corpus, np.arange(CLIPS), 200, 16, seed=0, device=torch.device("cpu")
    )
    for step in range(8):
        assert torch.equal(resident.batch(step), mapped.batch(step))
    assert torch.equal(resident.batch(3, 1, 3), mapped.batch(3, 1, 3))


def test_small_corpora_are_resident_on_cuda_only(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = int(corpus.index.frames.sum()) * 160
    for device, free, kind in (
        ("cuda", 4 * size, ResidentCropDataset),
        ("cuda", 4 * size - 4, CropDataset),
        ("cpu", 4 * size, CropDataset),
    ):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 80e9))
        assert dataset_class(corpus, torch.device(device)) is kind


def test_the_split_orders_ids_by_their_hash(corpus: Corpus) -> None:
    names = list(corpus.index.ids())
    by_hash = sorted(range(CLIPS), key=lambda clip: hashlib.sha256(names[clip]).hexdigest())
    assert split_validation(corpus)[1].tolist() == sorted(by_hash[:3])
