"""Batches of training clips: each is a function of seed and step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from hear_axlstm.finetune.batches import ClipBatches
from hear_axlstm.finetune.config import FinetuneConfig
from hear_axlstm.finetune.dataset import read_dataset
from tests.helpers.labeled import RATE


def test_an_epoch_has_every_clip_once_in_batches_of_seed_and_step(
    tones: Path, config: FinetuneConfig
) -> None:
    config = replace(config, batch_size=4, crop_seconds=0.25)
    dataset = read_dataset(tones, config)
    data, again = (ClipBatches(dataset, config, RATE) for _ in range(2))
    clips = len(dataset.splits["train"])
    assert clips % 4 == 0 and data.epoch_at(clips // 4) == 1
    batches = list(data.batches(0, clips // 4))
    assert {len(clip) for samples, _ in batches for clip in samples} == {RATE // 4}
    targets = torch.cat([batch[1] for batch in batches])
    assert torch.equal(targets.sort().values, dataset.targets("train").sort().values)
    samples, expected = again.batch(2)
    assert torch.equal(batches[2][1], expected)
    assert all(torch.equal(a, b) for a, b in zip(batches[2][0], samples, strict=True))
