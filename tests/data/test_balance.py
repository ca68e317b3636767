"""Folders of unequal size, drawn more evenly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hear_axlstm.audio.mel import standardize
from hear_axlstm.data.balance import balanced_draws, draw
from hear_axlstm.data.corpus import Corpus
from hear_axlstm.data.dataset import CropDataset, ResidentCropDataset
from hear_axlstm.data.pack import pack
from hear_axlstm.pretrain.config import PretrainConfig

SIZES = {"speech/deep": 64, "music": 16, "environment/a/b": 4}
CLIPS = sum(SIZES.values())


def make(folder: Path, sizes: dict[str, int]) -> Corpus:
    """A pack of noise, 0.3 s a clip, in folders of these sizes."""
    rng = np.random.default_rng(0)
    for top, size in sizes.items():
        (folder / "audio" / top).mkdir(parents=True, exist_ok=True)
        for number in range(size):
            samples = rng.normal(0, 0.1, 4800)
            soundfile.write(folder / "audio" / top / f"{number}.wav", samples, 16_000)
    pack(folder / "audio", folder / "pack", workers=1)
    return Corpus(folder / "pack")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make(tmp_path_factory.mktemp("balance"), SIZES)


def folders(corpus: Corpus) -> list[str]:
    return [clip_id.decode().split("/")[0] for clip_id in corpus.index.ids()]


@pytest.mark.parametrize(
    ("balance", "shares"),
    [(1.0, [1 / 3, 1 / 3, 1 / 3]), (0.5, [8 / 14, 4 / 14, 2 / 14])],  # square roots of 64, 16, 4
)
def test_folders_get_their_shares(corpus: Corpus, balance: float, shares: list[float]) -> None:
    expected = balanced_draws(corpus, np.arange(CLIPS), balance)
    assert expected is not None
    total: Counter[str] = Counter()
    for folder, draws in zip(folders(corpus), expected, strict=True):
        total[folder] += draws
    assert [total[name] / CLIPS for name in ("speech", "music", "environment")] == pytest.approx(
        shares
    )
    assert balanced_draws(corpus, np.arange(CLIPS), 0.0) is None


def test_draws_are_as_often_as_expected() -> None:
    rng = np.random.default_rng(0)
    expected = rng.gamma(0.5, size=50)
    expected *= 50 / expected.sum()
    counts = np.array(
        [np.bincount(draw(np.arange(50), expected, np.random.default_rng(seed)), minlength=50)
         for seed in range(2000)]
    )  # fmt: skip
    assert (counts.sum(1) == 50).all()
    assert (np.abs(counts - expected) < 1).all()
    np.testing.assert_allclose(counts.mean(0), expected, atol=0.06)  # 5 standard errors


def test_balanced_batches_follow_from_seed_and_step_alone(corpus: Corpus) -> None:
    clips = np.arange(CLIPS)
    draws = balanced_draws(corpus, clips, 1.0)

    def dataset(seed: int = 0) -> CropDataset:
        return CropDataset(corpus, clips, 20, 12, seed, draws=draws)

    used = dataset()
    for step in (30, 2, 9):
        used.batch(step)
    assert torch.equal(used.batch(9), dataset().batch(9))
    assert not torch.equal(dataset(1).batch(9), dataset().batch(9))
    resident = ResidentCropDataset(corpus, clips, 20, 12, 0, torch.device("cpu"), draws)
    torch.testing.assert_close(resident.batch(9), dataset().batch(9), rtol=0, atol=1e-4)
    halves = [dataset().batch(9, rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat(halves), dataset().batch(9))


def test_an_epoch_draws_every_folder_equally_often(corpus: Corpus) -> None:
    clips = np.arange(CLIPS)
    frames = int(corpus.index.frames[0])  # of all clips: a crop is a whole clip
    draws = balanced_draws(corpus, clips, 1.0)
    data = CropDataset(corpus, clips, frames, CLIPS, 0, draws=draws)
    plain = CropDataset(corpus, clips, frames, CLIPS, 0)
    whole = torch.stack(
        [standardize(torch.tensor(corpus.clip(n).astype(np.float32))) for n in clips]
    )
    whole, names = whole.flatten(1), folders(corpus)
    found = torch.cdist(plain.batch(0).flatten(1), whole).argmin(1)
    assert sorted(found.tolist()) == clips.tolist()  # each clip is recognized
    for step in range(3):
        distance = torch.cdist(data.batch(step).flatten(1), whole)
        count = Counter(names[clip] for clip in distance.argmin(1).tolist())
        assert all(abs(count[name] - CLIPS / 3) <= 1 for name in set(names))


def test_folders_are_told_apart_below_what_their_paths_share(tmp_path: Path) -> None:
    make(tmp_path, SIZES)
    pack([tmp_path / "audio" / top for top in ("music", "speech")], tmp_path / "both", workers=1)
    both = Corpus(tmp_path / "both")
    expected = balanced_draws(both, np.arange(len(both)), 1.0)
    assert expected is not None and expected.sum() == pytest.approx(80)
    assert set(expected.round(6)) == {40 / 64, 40 / 16}


def test_one_folder_cannot_be_balanced(tmp_path: Path) -> None:
    for name, sizes in (("flat", {"": 5}), ("nested", {"all/a": 5})):
        with pytest.raises(ValueError, match=r"balance=0\.5 needs a corpus of several"):
            balanced_draws(make(tmp_path / name, sizes), np.arange(5), 0.5)


def test_balance_is_checked_and_stays_through_a_run() -> None:
    with pytest.raises(ValueError, match="balance=2"):
        PretrainConfig(balance=2)
    assert PretrainConfig(balance=0.5).conflicts(PretrainConfig().to_dict()) == ["balance"]
