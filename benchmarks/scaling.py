"""`python -m benchmarks.scaling`: time and memory of embedding against length and batch, as PNG."""

from __future__ import annotations

import csv
import multiprocessing
import time
from pathlib import Path

import torch
import tyro
from tqdm import tqdm

from benchmarks.timing import machine
from hear_axlstm import get_scene_embeddings, load_model
from hear_axlstm.training.meter import peak_memory

SECONDS = (2, 10, 60, 300, 1200)
CLIPS = (1, 2, 4, 8, 16, 32)
Row = tuple[str, int, int, float, float]  # preset, clips, seconds of each, time in s, memory in MB


def main(
    presets: tuple[str, ...] = ("axlstm_tiny", "ssast_tiny"),
    out: Path = Path("docs/scaling.png"),
    rounds: int = 3,
) -> None:
    """Measure on the CPU and draw a picture; also writes the numbers as a CSV with its name.

    Args:
        presets: Presets to measure.
        out: PNG to write.
        rounds: Repetitions; the shortest time counts.
    """
    cases = [(name, 1, seconds) for name in presets for seconds in SECONDS]
    cases += [(name, clips, 10) for name in presets for clips in CLIPS if clips > 1]
    rows: list[Row] = []
    for name, clips, seconds in tqdm(cases):
        # one process each, since peak memory never decreases within a process
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            took, memory = pool.apply(measure, (name, clips, seconds, rounds))
        rows.append((name, clips, seconds, took, memory))
    with open(out.with_suffix(".csv"), "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("preset", "clips", "seconds", "time_s", "memory_mb"))
        table.writerows((*row[:3], f"{row[3]:.3f}", f"{row[4]:.0f}") for row in rows)
    _draw(rows, out)
    print(f"{machine(torch.device('cpu'))}: {out} and {out.with_suffix('.csv')}")


def measure(name: str, clips: int, seconds: int, rounds: int) -> tuple[float, float]:
    """Seconds to embed clips as scenes, and the peak of memory in MB above the loaded model."""
    model = load_model(f"{name}.random")
    get_scene_embeddings(torch.zeros(1, model.sample_rate), model)  # folds the weights
    before = _peak_mb()
    audio = 0.1 * torch.randn(clips, seconds * model.sample_rate)
    times = []
    for _ in range(rounds if clips * seconds <= 600 else 1):
        start = time.perf_counter()
        get_scene_embeddings(audio, model)
        times.append(time.perf_counter() - start)
    return min(times), _peak_mb() - before


def _peak_mb() -> float:
    return (peak_memory(torch.device("cpu")) or 0) / 2**20


def _draw(rows: list[Row], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 6), constrained_layout=True)
    for column, by_length in enumerate((True, False)):
        for name in dict.fromkeys(row[0] for row in rows):
            chosen = [r for r in rows if r[0] == name and (r[1] == 1 if by_length else r[2] == 10)]
            x = [row[2] if by_length else row[1] for row in chosen]
            for line, value in enumerate((3, 4)):
                axes[line, column].loglog(x, [row[value] for row in chosen], "o-", label=name)
        axes[1, column].set_xlabel("length of one clip (s)" if by_length else "clips of 10 s")
    axes[0, 0].set_ylabel("time (s)")
    axes[1, 0].set_ylabel("memory above the model (MB)")
    axes[0, 0].legend()
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    tyro.cli(main)
