"""`python -m benchmarks.probes EMBEDDINGS...`: the batched probes against heareval itself.

Takes folders of finished embeddings, OUT/embeddings/TASK/SYSTEM/.../TASK as `python -m eval` leaves
them. Times are of whole seeds, cut to some epochs, in turns and with as many threads, in seconds of
the processor; scores are of full training, heareval's from its finished runs in OUT/predictions.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import tyro
from tqdm import tqdm

from benchmarks.timing import Work, machine
from eval import kit, probes
from eval.scores import Estimate, estimate
from hear_axlstm.precision import Precision
from hear_axlstm.pretrain.device import keep_freed_memory


def main(
    embeddings: tyro.conf.Positional[tuple[Path, ...]],
    seeds: int = 10,
    epochs: int = 60,
    rounds: int = 1,
    threads: int = 1,
    precision: Precision = "auto",
) -> None:
    """Measure and print a Markdown table.

    Args:
        embeddings: Folders of one task each.
        seeds: Seeds of full training; 0 measures the time only.
        epochs: Of the runs that are timed.
        rounds: Repetitions of these; the table shows medians. 0 leaves them out.
        threads: Of both.
        precision: Of the batched probes' products.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()  # for both
    print(f"{machine(torch.device('cpu'))}, {precision}\n")
    print(
        f"| task, system | heareval, CPU s a seed of {epochs} epochs | batched | ratio | ", end=""
    )
    print("heareval, percent | batched |\n|---|---|---|---|---|---|")
    for folder in tqdm(embeddings, leave=False, disable=None):
        cells = [f"{folder.name}, {_system(folder)}"]
        with tempfile.TemporaryDirectory() as temporary:
            cells += _times(folder, Path(temporary), epochs, rounds, precision) if rounds else "---"
            cells += _scores(folder, Path(temporary), seeds, precision) if seeds else "--"
        tqdm.write("| " + " | ".join(cells) + " |")


def _times(
    folder: Path, temporary: Path, epochs: int, rounds: int, precision: Precision
) -> list[str]:
    cut = temporary / "embeddings"
    kit.make_fresh(cut, folder)
    metadata = json.loads((folder / "task_metadata.json").read_text())
    metadata["evaluation_params"] = {"task_specific_param_grid": {"max_epochs": [epochs]}}
    (cut / "task_metadata.json").unlink()
    (cut / "task_metadata.json").write_text(json.dumps(metadata))
    results = (temporary / name for name in map(str, range(4 * (rounds + 1))))

    def batched() -> None:
        probes.predict(cut, {0: next(results)}, "paper", precision)

    works: dict[str, Work] = {
        "heareval": lambda: kit.predict(cut, next(results), 0, "paper"),
        "batched": batched,
    }
    seconds = _processor_seconds(works, rounds)
    ratio = seconds["heareval"] / seconds["batched"]
    return [f"{seconds['heareval']:.1f}", f"{seconds['batched']:.1f}", f"{ratio:.1f}x"]


def _processor_seconds(works: dict[str, Work], rounds: int) -> dict[str, float]:
    """As `timing.in_turns`, but in seconds of the processor, which don't count waiting."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def _scores(folder: Path, temporary: Path, seeds: int, precision: Precision) -> list[str]:
    folders = {seed: temporary / f"seed{seed}" for seed in range(seeds)}
    probes.predict(folder, folders, "paper", precision)
    task, system = folder.parents[2].name, folder.parents[1].name
    finished = (folder.parents[4] / "predictions" / task / system / "heareval-paper").glob("seed*")
    theirs = _estimate([run for run in finished if kit.finished(run)])
    return [theirs, _estimate(list(folders.values()))]


def _estimate(runs: Sequence[Path]) -> str:
    values = []
    for run in runs:
        results = json.loads((run / kit.SCORES).read_text())
        values.append(
            results["aggregated_scores"]["test_score_mean"]
            if "aggregated_scores" in results
            else results["test"]["test_score"]
        )
    if not values:
        return "-"
    found: Estimate = estimate([100 * value for value in values])
    return f"{found} ({len(values)} seeds)"


def _system(folder: Path) -> str:
    return folder.parents[1].name.rpartition("-")[0]


if __name__ == "__main__":
    tyro.cli(main)
