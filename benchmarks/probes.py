"""`python -m benchmarks.probes EMBEDDINGS...`: the batched probes against heareval itself.

Takes folders of finished embeddings, OUT/embeddings/TASK/SYSTEM/.../TASK as `hearbench` leaves
them. Times are of whole seeds, cut to a few epochs, measured in turns: on one core as CPU
time; on several as wall-clock time, where heareval trains one seed after another
with as many threads, as its own command does, and the batched probes train as many seeds at once.
Scores are of full training, heareval's from its finished runs in OUT/predictions.
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
from hearbench.probes import batched, heareval_adapter
from hearbench.probes.batched.hardware import Precision, keep_freed_memory
from hearbench.probes.runs import finished, make_fresh, test_score
from hearbench.run.workers import Job, run
from hearbench.stats import summarize


def main(
    embeddings: tyro.conf.Positional[tuple[Path, ...]],
    seeds: int = 10,
    epochs: int = 60,
    rounds: int = 1,
    cores: int = 1,
    precision: Precision = "auto",
) -> None:
    """Measure and print a Markdown table.

    Args:
        embeddings: Folders of one task each.
        seeds: Seeds of full training; 0 measures the time only.
        epochs: Epochs of the timed runs.
        rounds: Repetitions of these; the table shows medians. 0 leaves them out.
        cores: Number of cores for both.
        precision: Precision of the batched probes' products.
    """
    torch.set_num_threads(cores)
    keep_freed_memory()  # for both
    kind = "CPU s" if cores == 1 else "s"
    show(
        f"{machine(torch.device('cpu'))}, {precision}",
        (
            "task, system",
            f"heareval, {kind} a seed of {epochs} epochs",
            "batched",
            "ratio",
            "heareval, percent",
            "batched",
        ),
        (
            _row(folder, seeds, epochs, rounds, cores, precision)
            for folder in tqdm(embeddings, leave=False, disable=None)
        ),
    )


def _row(
    folder: Path, seeds: int, epochs: int, rounds: int, cores: int, precision: Precision
) -> list[str]:
    cells = [f"{folder.name}, {folder.parents[1].name.rpartition('-')[0]}"]
    with tempfile.TemporaryDirectory() as temporary:
        cut = _cut(folder, Path(temporary) / "embeddings", epochs)
        cells += _times(cut, rounds, cores, precision) if rounds else "---"
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


def _times(cut: Path, rounds: int, cores: int, precision: Precision) -> list[str]:
    results = (cut.parent / f"results{number}" for number in itertools.count())
    clock = time.process_time if cores == 1 else time.perf_counter

    def by_heareval() -> None:
        for seed in range(cores):
            heareval_adapter.predict(cut, next(results), seed, "paper")

    def by_batches() -> None:
        if cores == 1:
            return batched.predict(cut, {0: next(results)}, "paper", precision)
        folders = [{seed: next(results)} for seed in range(cores)]
        jobs = [
            Job("", (), cut, batched.predict, (cut, one, "paper", precision)) for one in folders
        ]
        failures = run(jobs, cores, "loky", tqdm(disable=True), lambda: 0.0)
        assert not failures, failures

    works: dict[str, Work] = {"heareval": by_heareval, "batched": by_batches}
    theirs, ours = in_turns(works, rounds, torch.device("cpu"), clock).values()
    return [f"{theirs / cores:.1f}", f"{ours / cores:.1f}", f"{theirs / ours:.1f}x"]


def _scores(folder: Path, temporary: Path, seeds: int, precision: Precision) -> list[str]:
    folders = {seed: temporary / f"seed{seed}" for seed in range(seeds)}
    batched.predict(folder, folders, "paper", precision)
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
