"""`python -m benchmarks.probes EMBEDDINGS...`: the engine `fast` against heareval itself.

Takes folders of finished embeddings, OUT/embeddings/TASK/SYSTEM/.../TASK as `hearbench` leaves
them. Times are CPU times of one seed on one core, cut to a few epochs and measured alternately.
Scores are those of full training; heareval's come from its finished runs in OUT/predictions.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import tyro
from tqdm import tqdm

from benchmarks.tables import show
from benchmarks.timing import Work, in_turns, machine
from hearbench.probes import fast, official
from hearbench.probes.fast.hardware import keep_freed_memory
from hearbench.probes.runs import ProductType, finished, make_fresh, test_score
from hearbench.stats import summarize


def main(
    embeddings: tyro.conf.Positional[tuple[Path, ...]],
    seeds: int = 10,
    epochs: int = 60,
    rounds: int = 1,
    precision: ProductType | None = None,
) -> None:
    """Measure and print a Markdown table.

    Args:
        embeddings: Folders of one task each.
        seeds: Seeds of full training; 0 measures the time only.
        epochs: Epochs of the timed runs.
        rounds: Repetitions of these; the table shows medians. 0 leaves them out.
        precision: Precision of fast's products, by default the fastest.
    """
    precision = precision or fast.fastest_precision()
    torch.set_num_threads(1)
    keep_freed_memory()  # for both
    show(
        f"{machine(torch.device('cpu'))}, {precision}",
        (
            "task, system",
            f"heareval, CPU s per seed of {epochs} epochs",
            "fast",
            "ratio",
            "heareval, percent",
            "fast",
        ),
        (
            _row(folder, seeds, epochs, rounds, precision)
            for folder in tqdm(embeddings, leave=False, disable=None)
        ),
    )


def _row(folder: Path, seeds: int, epochs: int, rounds: int, precision: ProductType) -> list[str]:
    cells = [f"{folder.name}, {folder.parents[1].name.rpartition('-')[0]}"]
    with tempfile.TemporaryDirectory() as temporary:
        cut = _cut(folder, Path(temporary) / "embeddings", epochs)
        cells += _times(cut, rounds, precision) if rounds else "---"
        cells += _scores(folder, Path(temporary), seeds, precision) if seeds else "--"
    return cells


def _cut(folder: Path, to: Path, epochs: int) -> Path:
    """Link the embeddings with a limit on the number of training epochs."""
    make_fresh(to, folder)
    metadata = json.loads((folder / "task_metadata.json").read_text("utf-8"))
    metadata["evaluation_params"] = {"task_specific_param_grid": {"max_epochs": [epochs]}}
    (to / "task_metadata.json").unlink()
    (to / "task_metadata.json").write_text(json.dumps(metadata), "utf-8")
    return to


def _times(cut: Path, rounds: int, precision: ProductType) -> list[str]:
    results = (cut.parent / f"results{number}" for number in itertools.count())
    log = cut.parent / "log"
    works: dict[str, Work] = {
        "heareval": lambda: official.train_and_test(cut, {0: next(results)}, "paper", log),
        "fast": lambda: fast.train_and_test(cut, {0: next(results)}, "paper", log, precision),
    }
    theirs, ours = in_turns(works, rounds, torch.device("cpu"), time.process_time).values()
    return [f"{theirs:.1f}", f"{ours:.1f}", f"{theirs / ours:.1f}x"]


def _scores(folder: Path, temporary: Path, seeds: int, precision: ProductType) -> list[str]:
    folders = {seed: temporary / f"seed{seed}" for seed in range(seeds)}
    fast.train_and_test(folder, folders, "paper", temporary / "log", precision)
    task, system = folder.parents[2].name, folder.parents[1].name
    runs = (folder.parents[4] / "predictions" / task / system / "heareval-paper").glob("seed*")
    theirs = _percent([run for run in runs if finished(run)])
    return [theirs, _percent(list(folders.values()))]


def _percent(runs: Sequence[Path]) -> str:
    if not runs:
        return "-"
    return f"{summarize([100 * test_score(run)[0] for run in runs])} ({len(runs)} seeds)"


if __name__ == "__main__":
    tyro.cli(main)
