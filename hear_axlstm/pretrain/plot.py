"""Training curves of several runs in one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hear_axlstm.training.logging import LOG_NAME, read_log
from hear_axlstm.wording import unformatted

KNN = "knn_accuracy"  # in the log
WIDE_RANGE = 8.0  # ratio of largest to smallest value above which a logarithmic axis is used


@dataclass(frozen=True)
class Panel:
    """One pair of axes in the picture."""

    title: str
    quantity: str
    """Key in the log, drawn as a line."""
    marked: str | None = None
    """Second key in the log, drawn with markers over a thinner line."""
    may_be_log: bool = False
    """Whether a wide range is shown on a logarithmic axis."""


PANELS = (
    Panel("masked loss (thin: training; marked: validation)", "loss", "validation_loss", True),
    Panel("learning rate", "lr"),
    Panel("gradient norm", "grad_norm", may_be_log=True),
    Panel("kNN accuracy", KNN),
)
FEW_POINTS = (KNN,)
DASHES = ("-", "--", "-.", ":")
MARKERS = "osD^vX"


def plot(runs: Sequence[Path], out: Path) -> Path:
    """Draw loss, validation loss, learning rate, gradient norm and kNN accuracy over epochs.

    Args:
        runs: folders of runs, in progress or finished.
        out: the PNG to write.

    Returns:
        `out`.

    Raises:
        ValueError: if a folder is not a run's folder, or the runs have logged nothing yet.
        ModuleNotFoundError: if matplotlib is missing.
    """
    if not runs:
        raise ValueError("no runs to plot: pass the folders of one or more runs")
    logs = {label: _read(run) for label, run in zip(_labels(runs), runs, strict=True)}
    panels = [p for p in PANELS if any(_points(lines, p.quantity) for lines in logs.values())]
    if not panels:
        raise ValueError(f"nothing is logged yet in {', '.join(map(str, runs))}: wait a few steps")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "plotting needs matplotlib: run pip install '.[train]' in the clone"
        ) from error
    columns = 2 if len(panels) == len(PANELS) else len(panels)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(6.0 * columns, 0.8 + 3.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, panel in zip(axes, panels, strict=True):
        _draw(axis, panel, logs)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)))
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    return out


def _draw(axis: Any, panel: Panel, logs: dict[str, list[dict[str, Any]]]) -> None:
    values: list[float] = []
    for number, (label, lines) in enumerate(logs.items()):
        # Color, dashes and markers differ, as runs with one schedule overlap
        color, dashes = f"C{number}", DASHES[number % len(DASHES)]
        marker = MARKERS[number % len(MARKERS)]
        points, marks = _points(lines, panel.quantity), _points(lines, panel.marked)
        thin = {"alpha": 0.6, "linewidth": 1.0} if panel.marked else {"linewidth": 1.8}
        dots = marker if panel.quantity in FEW_POINTS else None
        axis.plot(*_columns(points), color=color, linestyle=dashes, marker=dots, **thin)
        style = {"color": color, "linestyle": dashes, "marker": marker, "markersize": 5}
        axis.plot(*_columns(marks), label=_in_legend(label), **style)
        values += [y for _, y in points + marks]
    if panel.may_be_log and min(values) > 0 and max(values) / min(values) > WIDE_RANGE:
        axis.set_yscale("log")
        for which in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            which(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "125" else "")
    axis.set_title(panel.title)
    axis.set_xlabel("epoch")
    axis.grid(True, which="both", alpha=0.25)


def _in_legend(label: str) -> str:
    """A label, after a blank if it begins with _, since matplotlib leaves out such labels."""
    return unformatted(f" {label}" if label.startswith("_") else label)


def _points(lines: Sequence[dict[str, Any]], quantity: str | None) -> list[tuple[float, float]]:
    """Epochs and values of the lines with a finite value."""
    if quantity is None:
        return []
    found = [line for line in lines if "epoch" in line and quantity in line]
    return [(line["epoch"], line[quantity]) for line in found if math.isfinite(line[quantity])]


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _read(run: Path) -> list[dict[str, Any]]:
    path = run / LOG_NAME
    if not path.is_file():
        raise ValueError(f"{run} is not a run's folder: it has no {LOG_NAME}")
    return read_log(path)


def _labels(runs: Sequence[Path]) -> list[str]:
    """Names of the folders, or whole paths if names repeat."""
    names = [run.resolve().name for run in runs]
    return [
        name if names.count(name) == 1 else str(run) for name, run in zip(names, runs, strict=True)
    ]
