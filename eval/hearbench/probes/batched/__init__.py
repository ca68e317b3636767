"""heareval's probes, all seeds and grid points of a task at once, without heareval.

The same embeddings in, the same files out, by the same rules; tests/test_probes.py holds them to
heareval itself. What is faster, and why, stands in `train` and `stack`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from hearbench.probes import heareval_adapter
from hearbench.probes.batched.grid import Point, draw
from hearbench.probes.batched.hardware import Precision
from hearbench.probes.batched.results import write
from hearbench.probes.batched.task import ProbeError, Task, read_metadata, reason_against
from hearbench.probes.batched.train import Fit, Outcome, Trainer
from hearbench.probes.heareval_adapter import Grid

__all__ = ["ProbeError", "predict", "supports"]


def supports(task: Path) -> bool:
    """Whether `predict` can train probes for this folder of embeddings, or of a HEAR task."""
    return reason_against(read_metadata(task)) is None


def predict(
    embeddings: Path, folders: Mapping[int, Path], grid: Grid, precision: Precision = "auto"
) -> None:
    """Train and test the probes of several seeds, and write the files that heareval would write.

    Finished folders stay as they are. Seeds are finished one after the other where memory does not
    hold them all. A folder counts as finished (`heareval_adapter.finished`) only when complete.

    Args:
        embeddings: heareval's embeddings of a scene task (`heareval_adapter.embedded`).
        folders: seed -> its own folder for the results; made, or emptied if unfinished.
        grid: search space; its points are drawn as heareval draws them with that seed.
        precision: of the products while training; "auto" takes bfloat16 where the hardware is
            faster with it (benchmarks/RESULTS.md compares the scores).

    Raises:
        ProbeError: for a task that only heareval supports (see `supports`), and for embeddings or
            labels that no probe can be trained on.
    """
    folders = {
        seed: folder for seed, folder in folders.items() if not heareval_adapter.finished(folder)
    }
    if not folders:
        return
    task = Task(embeddings)
    trainer = Trainer(task, precision)
    points = {seed: draw(grid, task.metadata, seed) for seed in sorted(folders)}
    at_once = min(trainer.at_once(point.shape) for drawn in points.values() for point in drawn)
    fits = sum(map(len, points.values())) + len(folders) * (len(task.splits) - 1)
    with tqdm(total=fits, desc=embeddings.name, unit="fit", disable=None) as bar:
        for first in range(0, len(folders), at_once):
            seeds = list(points)[first : first + at_once]
            start = time.perf_counter()
            outcomes = _search(trainer, {seed: points[seed] for seed in seeds}, bar.update)
            seconds = (time.perf_counter() - start) / len(seeds)
            for seed in seeds:
                heareval_adapter.make_fresh(folders[seed], embeddings)
                done = {
                    "time": seconds,
                    "grid_points": len(points[seed]),
                    "precision": str(trainer.product_dtype).removeprefix("torch."),
                }
                write(task, folders[seed], outcomes[seed], done)


def _search(
    trainer: Trainer, points: Mapping[int, Sequence[Point]], done: Callable[[int], object]
) -> dict[int, list[Outcome]]:
    """Seed -> what came of the best point on each split; the first split decides which it is."""
    tried = [Fit(seed, 0, n, p) for seed, drawn in points.items() for n, p in enumerate(drawn)]
    best: dict[int, Outcome] = {}
    for outcome in trainer.train(tried, done):
        if outcome.fit.seed not in best or trainer.prefers(outcome, best[outcome.fit.seed]):
            best[outcome.fit.seed] = outcome
    others = range(1, len(trainer.task.splits))
    rest = [replace(o.fit, split=split) for split in others for o in best.values()]
    outcomes = {seed: [outcome] for seed, outcome in best.items()}
    for outcome in trainer.train(rest, done):
        outcomes[outcome.fit.seed].append(outcome)
    return outcomes
