"""The pictures of a report, as SVG by matplotlib: bars and scatter of s(m), seeds, confusion."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from itertools import count
from statistics import median
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from numpy.typing import NDArray

from hearbench.report.confusion import Mistakes
from hearbench.stats import Estimate

WIDTH = 4.2  # inches: a phone shows text of 10 points at its full size
LABELED = 24  # maximum number of classes that a confusion matrix names
LONGEST_NAME = 22  # characters
# Colors that the page replaces, so that light and dark follow its style sheet.
VARIABLES = {"#010101": "--text", "#020202": "--rule", "#030303": "--ours", "#040404": "--theirs"}
TEXT, RULE, OURS, THEIRS = VARIABLES
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hearbench",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "grid.color": RULE,
    "text.parse_math": False,  # names may contain $
}
styled = matplotlib.rc_context(STYLE)
"""Decorator of functions that draw: texts and lines take the style when they are made."""


@dataclass(frozen=True)
class Mark:
    """One system in a picture."""

    name: str
    value: Estimate
    measured: bool
    parameters: float | None = None
    """Parameters in millions."""
    seeds: tuple[float, ...] = ()

    @property
    def color(self) -> str:
        """Measured systems stand out from printed ones."""
        return OURS if self.measured else THEIRS


@styled
def bars(marks: Sequence[Mark], title: str) -> str:
    """s(m) of each system with its interval, best first."""
    ordered = sorted(marks, key=lambda mark: mark.value.mean)
    figure, axes = _axes(0.26 * len(marks) + 0.5)
    axes.barh(
        range(len(ordered)),
        [mark.value.mean for mark in ordered],
        xerr=whiskers(*(mark.value for mark in ordered)),
        color=[mark.color for mark in ordered],
        ecolor=TEXT,
        height=0.6,
    )
    pairs = zip(shortened([mark.name for mark in ordered]), ordered, strict=True)
    names = [name if mark.measured else f"{name} (printed)" for name, mark in pairs]
    axes.set_yticks(range(len(ordered)), names)
    axes.set_xlim(right=max(100.0, *(mark.value.bounds[1] for mark in marks)))
    axes.grid(axis="x")
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(ordered)), [str(mark.value) for mark in ordered])
    right.tick_params(length=0, labelcolor=TEXT)
    right.spines["right"].set_visible(False)
    return _svg(figure, title)


@styled
def scatter(marks: Sequence[Mark], title: str) -> str:
    """s(m) against parameters; systems without parameters are left out."""
    figure, axes = _axes(3.2)
    for mark, name in zip(marks, shortened([mark.name for mark in marks]), strict=True):
        if mark.parameters:
            place = mark.parameters, mark.value.mean
            axes.errorbar(*place, yerr=whiskers(mark.value), fmt="o", color=mark.color, ecolor=TEXT)
            axes.annotate(name, place, (6, 4), textcoords="offset points", fontsize=9)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set(xlabel="million parameters", ylabel="s(m)")
    axes.margins(x=0.15)
    axes.grid()
    return _svg(figure, title)


@styled
def dots(marks: Sequence[Mark], title: str) -> str:
    """Every seed's score on one task, with the mean and its interval."""
    figure, axes = _axes(0.28 * len(marks) + 0.5)
    near = _near(marks)
    for row, mark in enumerate(reversed(marks)):
        if mark not in near:
            axes.text(0.02, row, f"{mark.value} (outside)", transform=axes.get_yaxis_transform())
            continue
        axes.plot(mark.seeds, [row] * len(mark.seeds), "o", color=OURS, alpha=0.5)
        lengths = whiskers(mark.value)
        axes.errorbar(mark.value.mean, row, xerr=lengths, fmt="|", color=TEXT, markersize=14)
    axes.set_yticks(range(len(marks)), shortened([mark.name for mark in reversed(marks)]))
    axes.set_ylim(-0.6, len(marks) - 0.4)
    axes.grid(axis="x")
    return _svg(figure, title)


def whiskers(*scores: Estimate) -> NDArray[np.float64]:
    """Lengths of the whiskers below and above the means, [2, scores]."""
    bounds = np.transpose([score.bounds for score in scores])
    return np.abs(bounds - [score.mean for score in scores])


def _near(marks: Sequence[Mark]) -> list[Mark]:
    """The marks that the axis covers: an outlier would squeeze all others."""
    middle = median(mark.value.mean for mark in marks)
    spread = median(abs(mark.value.mean - middle) for mark in marks)
    return [m for m in marks if abs(m.value.mean - middle) <= max(4 * spread, 5.0)]


@styled
def confusion(mistakes: Mistakes) -> str:
    """Rows are true classes, columns predicted ones; darker is more frequent."""
    matrix, labels = mistakes.confusion, mistakes.labels
    assert matrix is not None
    figure, axes = _axes(WIDTH)
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=100)
    axes.spines[:].set_visible(True)
    if len(labels) <= LABELED:
        names = shortened(labels)
        axes.set_xticks(range(len(labels)), names, rotation=90)
        axes.set_yticks(range(len(labels)), names)
    axes.set(xlabel="predicted class", ylabel="true class")
    if len(labels) <= 12:
        for row, column in zip(*(matrix >= 0.5).nonzero(), strict=True):
            percent = matrix[row, column]
            tone = "white" if percent > 55 else "black"
            axes.text(column, row, f"{percent:.0f}", ha="center", va="center", color=tone)
    return _svg(figure, f"Confusion matrix of {mistakes.system} on {mistakes.task}")


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure((WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure, title: str) -> str:
    """The picture as an element of the page, with the page's colors."""
    file = StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = re.sub(r"(?s)^.*?(?=<svg)|<metadata>.*?</metadata>", "", file.getvalue())
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)


def shortened(names: Sequence[str]) -> list[str]:
    """Names shortened in the middle, less so if different ones would become equal."""
    cuts = (
        (head, length - 1 - head)
        for length in count(LONGEST_NAME)
        for head in (length * 2 // 3, length // 3)
    )
    tries = ([_short(name, *cut) for name in names] for cut in cuts)
    return next(short for short in tries if len(set(short)) == len(set(names)))


def _short(name: str, head: int, tail: int) -> str:
    return name if len(name) <= head + 1 + tail else f"{name[:head]}…{name[-tail:]}"
