"""Pictures for results.md: scores, scores against training, reconstructions of masked patches.

    python -m scripts.results scores runs/eval
    python -m scripts.results training
    python -m scripts.results reconstruction bark.wav speech.wav

The fourth, the learning curves, is `axlstm plot RUNS --out docs/curves.png`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hear_axlstm import checkpoints
from hear_axlstm.audio.io import load_audio
from hear_axlstm.audio.mel import LogMel, standardize
from hear_axlstm.models.patch_embed import random_mask
from hear_axlstm.models.pretraining import MaskedPatchModel
from hear_axlstm.pretrain import pictures
from hearbench.report.pictures import whiskers
from hearbench.results import THESE, collect
from hearbench.run.plan import Plan

COLORS = {"naive": "0.65", "random": "0.4", "ssast": "#ff7f0e", "axlstm": "#1f77b4"}
MARKERS = {"naive": "x", "random": "D", "ssast": "s", "axlstm": "o"}


def scores(
    evaluation: tyro.conf.Positional[Path] = Path("runs/eval"), out: Path = Path("docs/scores.png")
) -> None:
    """Draw s(m) of every system, and its score on every task, with intervals over the seeds.

    Args:
        evaluation: Folder of a finished evaluation.
        out: PNG to write.
    """
    results = collect(Plan.load(evaluation))
    aggregates, cells = results.aggregates[THESE], results.cells
    if not aggregates:
        raise ValueError(f"{evaluation} has no s(m): finish it, with two or more systems")
    systems = sorted(aggregates, key=lambda system: aggregates[system].mean)
    tasks = [task.path.name for task in reversed(results.plan.tasks)]
    figure = Figure(figsize=(11, 1.3 + 0.42 * len(tasks)), layout="constrained")
    bars, dots = figure.subplots(1, 2, width_ratios=(2, 3))
    for y, system in enumerate(systems):
        score, color = aggregates[system], _style(system)["color"]
        bars.barh(y, score.mean, xerr=whiskers(score), color=color, capsize=3)
    bars.set(title="s(m)", yticks=range(len(systems)))
    bars.set_yticklabels(systems)
    for offset, system in enumerate(systems):
        shift = 0.16 * (offset - (len(systems) - 1) / 2)
        found = {y: cells[system, t] for y, t in enumerate(tasks) if (system, t) in cells}
        dots.errorbar(
            [cell.mean for cell in found.values()],
            [y + shift for y in found],
            xerr=whiskers(*found.values()),
            linestyle="none",
            markersize=5,
            label=system,
            **_style(system),
        )
    dots.set(title="test score, %", yticks=range(len(tasks)))
    dots.set_yticklabels(tasks)
    dots.set_ylim(-0.6, len(tasks) - 0.4)
    figure.legend(*dots.get_legend_handles_labels(), loc="outside lower right", ncols=len(systems))
    for axis in (bars, dots):
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
    FigureCanvasAgg(figure)
    figure.savefig(out, dpi=110)
    print(out)


def training(
    table: tyro.conf.Positional[Path] = Path("docs/training.csv"),
    out: Path = Path("docs/training.png"),
) -> None:
    """Draw the score of each task against the number of crops that a model was trained on.

    Args:
        table: CSV with the columns system, crops (0 for random weights) and one per task.
        out: PNG to write.
    """
    scores = pd.read_csv(table)
    figure = Figure(figsize=(12, 5), layout="constrained")
    axes = figure.subplots(2, 5)
    for axis, task in zip(axes.flat, scores.columns[2:], strict=True):
        for system, rows in scores.groupby("system"):
            style = _style(str(system))
            trained = rows[rows.crops > 0]
            axis.semilogx(trained.crops / 1000, trained[task], base=2, label=system, **style)
            for random in rows[rows.crops == 0][task]:
                axis.axhline(random, color=style["color"], linestyle=":")
        ticks = sorted(scores.crops[scores.crops > 0].unique() / 1000)
        axis.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
        axis.set_title(task, fontsize=9)
        axis.grid(alpha=0.3)
    figure.supxlabel("thousands of crops")
    figure.supylabel("test score, %")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    FigureCanvasAgg(figure)
    figure.savefig(out, dpi=110)
    print(out)


def reconstruction(
    audio: tyro.conf.Positional[tuple[Path, ...]],
    model: str = "",
    out: Path = Path("docs/reconstruction.png"),
) -> None:
    """Draw the first window of recordings: masked, reconstructed and original.

    Args:
        audio: Recordings of 2 s or more.
        model: Weights of a pretraining run, as in load_model; by default the shipped ones.
        out: PNG to write.
    """
    if not audio:
        raise ValueError("no recordings: name one or more")
    file = checkpoints.locate(model or checkpoints.manifest()["default"])
    config, _, tensors = checkpoints.read(file)
    network = MaskedPatchModel(config).eval()
    checkpoints.fill(network, tensors, file)
    front, grid = LogMel(config.mel), config.grid
    seconds = config.window_frames * config.mel.hop_length / config.mel.sample_rate
    windows = []
    for path in audio:
        samples = torch.from_numpy(load_audio(path, config.mel.sample_rate))
        mel_BTF = standardize(front(samples[None]))
        if mel_BTF.shape[1] < config.window_frames:
            raise ValueError(f"{path} is too short: give recordings of {seconds:g} s or more")
        windows.append(mel_BTF[:, : config.window_frames])
    generator = torch.Generator().manual_seed(0)
    mask_BN = random_mask(len(audio), grid[0] * grid[1], config.mask_ratio, generator)
    shown = pictures.panels(network, torch.cat(windows), mask_BN)
    title = f"{config.architecture}: half of the patches masked, and reconstructed"
    pictures.draw(shown, seconds, title, out)
    print(out)


def _style(system: str) -> dict[str, Any]:
    kind = next((kind for kind in COLORS if system.startswith(kind)), "axlstm")
    return {"color": COLORS[kind], "marker": MARKERS[kind]}


COMMANDS: dict[str, Callable[..., None]] = {
    "scores": scores,
    "training": training,
    "reconstruction": reconstruction,
}


def main() -> None:
    """Run one of `COMMANDS`."""
    try:
        tyro.extras.subcommand_cli_from_dict(COMMANDS)
    except (ValueError, OSError) as error:
        raise SystemExit(f"scripts.results: {error}") from None


if __name__ == "__main__":
    main()
