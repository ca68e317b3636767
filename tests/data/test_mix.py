"""Two crops mixed into one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hear_axlstm.audio.mel import STD_FLOOR
from hear_axlstm.data.corpus import Corpus
from hear_axlstm.data.dataset import CropDataset


def test_mixed_crops_are_the_sum_of_two_energies(tones: Path) -> None:
    corpus = Corpus(tones)
    clips = np.arange(len(corpus))
    mixed = CropDataset(corpus, clips, 20, 8, 0, mix=0.5)
    plain = CropDataset(corpus, clips, 20, 8, 0)
    found, own = mixed.batch(3), plain.batch(3)
    halves = [mixed.batch(3, rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat(halves), found) and not torch.equal(found, own)
    random = np.random.default_rng([0, 4, 3])
    partners, shares = random.permutation(8), random.random(8) * 0.5
    chosen = plain._crops(np.arange(24, 32))[0]
    for row, (partner, share) in enumerate(zip(partners, shares, strict=True)):
        scale = float(corpus.index.std[chosen[row]]) + STD_FLOOR
        energy = (1 - share) * (scale * own[row].double()).exp()
        energy += share * (scale * own[partner].double()).exp()
        expected = (energy.log() / scale).float()
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-4)
