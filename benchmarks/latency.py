"""`python -m benchmarks.latency`: latency of one clip and of a stream's step on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import tyro
from tqdm import tqdm

from benchmarks.tables import show
from benchmarks.timing import Work, machine, once
from hear_axlstm import get_scene_embeddings, load_model
from hear_axlstm.embed.embedder import Embedder

SECONDS = (1, 2, 5, 10)
STREAM_SECONDS = 6  # three windows: the cost of a step depends on its place inside one


def main(
    presets: tuple[str, ...] = ("axlstm_tiny", "axlstm_small", "axlstm_base"),
    threads: tuple[int, ...] = (1, 2),
    rounds: int = 20,
) -> None:
    """Measure in float32 and print a Markdown table.

    Args:
        presets: Presets to measure.
        threads: Numbers of threads.
        rounds: Repetitions of each length, which take turns.
    """
    print(machine(torch.device("cpu")).replace(f"{torch.get_num_threads()} threads, ", ""))
    titles = [f"{seconds} s" for seconds in SECONDS]
    show(
        "Median (90th percentile) in ms:",
        ("preset", "threads", *titles, "40 ms of a stream"),
        (row for name in tqdm(presets, leave=False) for row in _rows(name, threads, rounds)),
    )


def _rows(name: str, threads: tuple[int, ...], rounds: int) -> Iterator[list[str]]:
    model = load_model(f"{name}.random")
    for count in threads:
        torch.set_num_threads(count)
        yield [name, str(count), *_scenes(model, rounds), _stream(model)]


def _scenes(model: Embedder, rounds: int) -> list[str]:
    """Latency of the scene embedding of one clip, by length."""
    clips = [0.1 * torch.randn(1, seconds * model.sample_rate) for seconds in SECONDS]
    took: list[list[float]] = [[] for _ in clips]
    for turn in range(rounds + 1):  # the first one is a warm-up
        for clip, values in zip(clips, took, strict=True):
            ms = _milliseconds(lambda clip=clip: get_scene_embeddings(clip, model))  # type: ignore[misc]
            if turn:
                values.append(ms)
    return [_summary(values) for values in took]


def _stream(model: Embedder) -> str:
    """Latency of the samples that complete a step."""
    samples = 0.1 * torch.randn(STREAM_SECONDS * model.sample_rate)
    stream = model.stream(model.fit_statistics(samples))
    blocks = samples.split(round(model.config.step_seconds * model.sample_rate))
    took = [_milliseconds(lambda block=block: stream.push(block)) for block in blocks]  # type: ignore[misc]
    return _summary(took[1:])  # the first block is too short for a step


def _milliseconds(work: Work) -> float:
    return 1000 * once(work, torch.device("cpu"))


def _summary(values: list[float]) -> str:
    return f"{np.median(values):.1f} ({np.quantile(values, 0.9):.1f})"


if __name__ == "__main__":
    tyro.cli(main)
