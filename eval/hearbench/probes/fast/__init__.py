"""The engine `fast`: heareval's probes, with all seeds and grid points of a task in batches.

It does not need heareval, but reads the same embeddings and writes the same files by the same
rules; tests/hearbench/probes/test_fast.py compares the two. It is faster because one model holds
several probes (`probes`) and because scores are computed for all classes at once (`scores`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hearbench.logs import output_to
from hearbench.probes.fast.data import ProbeData, ProbeError, reason_against
from hearbench.probes.fast.hardware import fastest_precision
from hearbench.probes.fast.results import write
from hearbench.probes.fast.train import Fit, Outcome, Trainer
from hearbench.probes.grid import Grid, Point, draw
from hearbench.probes.runs import ProductType, finished, make_fresh
from hearbench.progress import Progress

__all__ = ["ProbeError", "fastest_precision", "supports", "train_and_test"]


def supports(metadata: Mapping[str, Any]) -> bool:
    """Whether `train_and_test` can train probes for a task of that task_metadata.json."""
    return reason_against(metadata) is None


def train_and_test(
    embeddings: Path,
    folders: Mapping[int, Path],
    grid: Grid,
    log: Path,
    precision: ProductType,
) -> None:
    """Train and test the probes of several seeds, and write the same files as heareval.

    Finished folders are kept, except those with products of another type. Seeds are processed one
    after another if they don't all fit in memory. A folder counts as finished (`runs.finished`)
    only when complete.

    Args:
        embeddings: heareval's embeddings of a scene task (`hearbench.embed`).
        folders: folder of the results by seed; created, or emptied if unfinished.
        grid: search space; its points are drawn as in heareval with the same seed.
        log: file that the output is appended to; it must be outside `folders`.
        precision: type of the matrix products in training (`fastest_precision`;
            benchmarks/RESULTS.md compares the scores).

    Raises:
        ProbeError: for a task that only heareval supports (see `supports`), and for embeddings or
            labels that no probe can be trained on.
    """
    folders = {seed: folder for seed, folder in folders.items() if not finished(folder, precision)}
    if not folders:
        return
    data = ProbeData(embeddings)
    trainer = Trainer(data, precision)
    points = {seed: draw(grid, data.metadata, seed) for seed in sorted(folders)}
    at_once = min(trainer.at_once(point.shape) for drawn in points.values() for point in drawn)
    fits = sum(map(len, points.values())) + len(folders) * (len(data.folds) - 1)
    with output_to(log), Progress(total=fits, desc=embeddings.name, unit="fit") as bar:
        for first in range(0, len(folders), at_once):
            seeds = list(points)[first : first + at_once]
            start = time.perf_counter()
            outcomes = _search(trainer, {seed: points[seed] for seed in seeds}, bar.update)
            seconds = (time.perf_counter() - start) / len(seeds)
            for seed in seeds:
                make_fresh(folders[seed], embeddings)
                done = {
                    "time": seconds,
                    "grid_points": len(points[seed]),
                    "precision": precision,
                }
                write(data, folders[seed], outcomes[seed], done)


def _search(
    trainer: Trainer, points: Mapping[int, Sequence[Point]], done: Callable[[int], object]
) -> dict[int, list[Outcome]]:
    """Outcomes on each fold of each seed's best grid point, selected on the first fold."""
    tried = [Fit(seed, 0, n, p) for seed, drawn in points.items() for n, p in enumerate(drawn)]
    best: dict[int, Outcome] = {}
    for outcome in trainer.train(tried, done):
        if outcome.fit.seed not in best or trainer.prefers(outcome, best[outcome.fit.seed]):
            best[outcome.fit.seed] = outcome
    others = range(1, len(trainer.data.folds))
    rest = [replace(o.fit, fold=fold) for fold in others for o in best.values()]
    outcomes = {seed: [outcome] for seed, outcome in best.items()}
    for outcome in trainer.train(rest, done):
        outcomes[outcome.fit.seed].append(outcome)
    return outcomes
