"""`python -m benchmarks.data`: crops per second from a pack in the page cache, without a model."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import tyro
from tqdm import tqdm

from hear_axlstm.ahead import prefetch
from hear_axlstm.config import MelConfig
from hear_axlstm.data.corpus import FIELD, Corpus
from hear_axlstm.data.dataset import CropDataset, ResidentCropDataset, split_validation
from hear_axlstm.data.extract import Features
from hear_axlstm.data.pack import finish, record
from hear_axlstm.data.shards import Shard
from hear_axlstm.training.device import keep_freed_memory

CLIP_FRAMES = 1001  # 10 s
SHARD_CLIPS = 256


def main(clips: int = 4096, steps: int = 40, rounds: int = 5, batch_size: int = 1024) -> None:
    """Measure batches of 200 x 80 crops and print a Markdown table; medians over the rounds.

    Args:
        clips: Clips of 10 s in the generated pack, 160 KB each.
        steps: Batches per round.
        rounds: Repetitions.
        batch_size: Crops per batch.
    """
    keep_freed_memory()  # as in training; fresh memory for each batch costs more than the rest
    with tempfile.TemporaryDirectory() as folder:
        corpus = _generate(Path(folder), clips)
        start = time.perf_counter()
        train, _ = split_validation(corpus)
        print(f"split of {clips:,} clips: {time.perf_counter() - start:.3f} s\n")
        args = (corpus, train, 200, batch_size, 0)
        mapped = CropDataset(*args)
        sources: dict[str, Callable[[int], object]] = {
            "memory-mapped": mapped.batch,
            "memory-mapped, with masks": lambda s: (mapped.batch(s), mapped.masks(s, 250, 0.5)),
            "resident on the CPU": ResidentCropDataset(*args, torch.device("cpu")).batch,
        }
        print(f"{os.cpu_count()} CPUs, {torch.get_num_threads()} threads of torch\n")
        print("| batches of float32 crops | crops/s | slowest to fastest round |\n|---|---|---|")
        for name, make in sources.items():
            rates = []
            for _ in range(rounds + 1):  # the first one warms the page cache up
                start = time.perf_counter()
                deque(prefetch(make, 0, steps), maxlen=0)
                rates.append(steps * batch_size / (time.perf_counter() - start))
            rates = rates[1:]
            median = statistics.median(rates)
            print(f"| {name} | {median:,.0f} | {min(rates):,.0f} - {max(rates):,.0f} |")


def _generate(folder: Path, clips: int) -> Corpus:
    frames = np.random.default_rng(0).normal(size=(CLIP_FRAMES, MelConfig.n_mels)).astype("<f2")
    shards = [Shard(folder, n, str(n), (FIELD,)) for n in range(-(-clips // SHARD_CLIPS))]
    for shard in tqdm(shards, "generating", unit="shard", leave=False):
        first = shard.number * SHARD_CLIPS
        numbers = range(first, min(first + SHARD_CLIPS, clips))
        shard.write(record(Features(str(number), frames, 0.0, 1.0)) for number in numbers)
    finish(folder, "noise", MelConfig(), shards)
    return Corpus(folder)


if __name__ == "__main__":
    tyro.cli(main)
