"""The pictures of a report: bars and scatter of s(m), dots of the seeds, confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from hearbench.report.confusion import Mistakes
from hearbench.report.drawing import LETTER, TEXT, WIDTH, Canvas, Scale, ticks
from hearbench.stats import Score

NAMES = 104.0  # room for the names of systems
SHADES = 20  # of a confusion matrix
Box = tuple[float, float, float, float]  # left, top, right, bottom
LABELED = 24  # classes up to which a confusion matrix names them


@dataclass(frozen=True)
class Mark:
    """One system in a picture."""

    name: str
    value: Score
    measured: bool
    parameters: float | None = None
    """In millions."""
    seeds: tuple[float, ...] = ()

    @property
    def style(self) -> str:
        """Ours stand out from the published."""
        return "ours" if self.measured else "theirs"

    @property
    def low(self) -> float:
        """Lower end of its interval."""
        return self.value.mean - (self.value.half_width or 0.0)

    @property
    def high(self) -> float:
        """Upper end of its interval."""
        return self.value.mean + (self.value.half_width or 0.0)


def bars(marks: Sequence[Mark], title: str) -> str:
    """s(m) of each system with its interval, best first."""
    pitch, top = 20.0, 4.0
    canvas = Canvas(top + pitch * len(marks) + 18, title)
    scale = Scale(
        min(0.0, *(m.low for m in marks)), max(100.0, *(m.high for m in marks)), NAMES + 8, 292
    )
    bottom = top + pitch * len(marks)
    for tick in ticks(min(0.0, *(m.low for m in marks)), 100.0, 4):
        canvas.line(scale(tick), top, scale(tick), bottom, "grid")
        canvas.text(scale(tick), bottom + 14, f"{tick:g}", "mid small")
    for index, mark in enumerate(sorted(marks, key=lambda m: -m.value.mean)):
        y = top + pitch * index
        canvas.text(NAMES, y + 14, mark.name, f"end {mark.style}-text", NAMES)
        left, right = sorted((scale(0.0), scale(mark.value.mean)))
        canvas.bar(left, y + 4, right - left, pitch - 8, mark.style)
        _interval(canvas, scale(mark.low), scale(mark.high), y + pitch / 2)
        canvas.text(WIDTH, y + 14, str(mark.value), f"end {mark.style}-text")
    return canvas.svg()


def scatter(marks: Sequence[Mark], title: str) -> str:
    """s(m) against parameters; systems without parameters are left out."""
    shown = [mark for mark in marks if mark.parameters]
    floor = 236.0 if len(shown) <= 10 else 396.0
    canvas = Canvas(floor + 34, title)
    sizes = [mark.parameters or 1.0 for mark in shown]
    smallest, largest = min(sizes) / 1.6, max(sizes) * 1.6
    across = Scale(smallest, largest, 34, WIDTH - 4, logarithmic=True)
    low, high = min(m.low for m in shown), max(m.high for m in shown)
    margin = max(0.12 * (high - low), 1.0)
    up = Scale(low - margin, high + margin, floor, 8)
    for tick in ticks(low - margin, high + margin):
        canvas.line(34, up(tick), WIDTH - 4, up(tick), "grid")
        canvas.text(28, up(tick) + 4, f"{tick:g}", "end small")
    steps = (1, 2, 5) if largest > 10 * smallest else (1, 1.5, 2, 3, 4, 5, 6, 8)
    for size in (step * 10**power for power in range(-2, 5) for step in steps):
        if smallest <= size <= largest:
            canvas.line(across(size), floor, across(size), floor + 4, "axis")
            canvas.text(across(size), floor + 16, f"{size:g}", "mid small")
    canvas.line(34, floor, WIDTH - 4, floor, "axis")
    canvas.text((34 + WIDTH) / 2, floor + 30, "million parameters", "mid small")
    _points(canvas, shown, [(across(m.parameters or 1.0), up(m.value.mean)) for m in shown], up)
    return canvas.svg()


def dots(marks: Sequence[Mark], title: str) -> str:
    """Every seed's score on one task, with the mean and its interval."""
    pitch, top = 22.0, 4.0
    bottom = top + pitch * len(marks)
    canvas = Canvas(bottom + 18, title)
    near = _near(marks)
    values = [v for mark in near for v in (*mark.seeds, mark.low, mark.high)]
    margin = max(0.06 * (max(values) - min(values)), 0.2)
    low, high = min(values) - margin, max(values) + margin
    scale = Scale(low, high, NAMES + 12, WIDTH - 8)
    for tick in ticks(low, high):
        canvas.line(scale(tick), top, scale(tick), bottom, "grid")
        canvas.text(scale(tick), bottom + 14, f"{tick:g}", "mid small")
    for index, mark in enumerate(marks):
        y = top + pitch * (index + 0.5)
        canvas.text(NAMES, y + 4, mark.name, "end ours-text", NAMES)
        if mark not in near:
            far = mark.value.mean > high
            x, style = (WIDTH - 8, "end small") if far else (NAMES + 12, "small")
            canvas.text(x, y + 4, f"{mark.value} ▸" if far else f"◂ {mark.value}", style)
            continue
        _interval(canvas, scale(mark.low), scale(mark.high), y)
        for value in mark.seeds:
            canvas.dot(scale(value), y, 3.2, "seed", f"{value:.2f}")
        canvas.line(scale(mark.value.mean), y - 7, scale(mark.value.mean), y + 7, "mean")
    return canvas.svg()


def _near(marks: Sequence[Mark]) -> list[Mark]:
    """Those that an axis is to show: an outlier would squeeze all others."""
    middle = median(mark.value.mean for mark in marks)
    spread = median(abs(mark.value.mean - middle) for mark in marks)
    return [m for m in marks if abs(m.value.mean - middle) <= max(4 * spread, 5.0)]


def confusion(mistakes: Mistakes) -> str:
    """Rows are true classes, columns what they were taken for; darker is more often."""
    assert mistakes.confusion is not None
    count = len(mistakes.labels)
    room = 74.0 if count <= LABELED else 12.0
    side = WIDTH - room - 4
    cell = side / count
    canvas = Canvas(side + room + 4, f"Confusion matrix of {mistakes.system} on {mistakes.task}")
    canvas.bar(room, 2, side, side, "ground")
    shades: dict[int, list[str]] = {}
    for (row, column), percent in _cells(mistakes):
        shade = max(1, round(SHADES * percent / 100))
        path = (
            f"M{room + column * cell:.1f} {2 + row * cell:.1f}h{cell:.1f}v{cell:.1f}h-{cell:.1f}z"
        )
        shades.setdefault(shade, []).append(path)
    for shade, paths in sorted(shades.items()):
        canvas.raw(f'<path class="shade" opacity="{shade / SHADES:.2f}" d="{"".join(paths)}"/>')
    if count <= LABELED:
        for index, label in enumerate(mistakes.labels):
            middle = 2 + (index + 0.5) * cell
            canvas.text(room - 5, middle + 3.5, label, "end small", room)
            canvas.turned(room + (index + 0.5) * cell + 3.5, side + 7, label, room)
        for (row, column), percent in _cells(mistakes) if count <= 12 else ():
            tone = "mid small on-dark" if percent > 55 else "mid small on-light"
            x, y = room + (column + 0.5) * cell, 2 + (row + 0.5) * cell + 3.5
            canvas.text(x, y, f"{percent:.0f}", tone)
    else:
        canvas.turned(room - 3, 2, f"true class, 1 to {count}", side)
        canvas.text(room + side / 2, side + room, f"taken for class 1 to {count}", "mid small")
    return canvas.svg()


def _cells(mistakes: Mistakes) -> list[tuple[tuple[int, int], float]]:
    """The cells that round to one percent or more."""
    matrix = mistakes.confusion
    assert matrix is not None
    places = [(int(i), int(j)) for i, j in zip(*(matrix >= 0.5).nonzero(), strict=True)]
    return [(place, float(matrix[place])) for place in places]


def _interval(canvas: Canvas, left: float, right: float, y: float) -> None:
    if right - left > 0.5:
        canvas.line(left, y, right, y, "interval")
        canvas.line(left, y - 3, left, y + 3, "interval")
        canvas.line(right, y - 3, right, y + 3, "interval")


def _points(
    canvas: Canvas, marks: Sequence[Mark], places: Sequence[tuple[float, float]], up: Scale
) -> None:
    """Dots with their names; a published one whose name finds no room stays unnamed."""
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    both = zip(marks, places, strict=True)
    for mark, (x, y) in sorted(both, key=lambda pair: pair[0].measured):
        canvas.line(x, up(mark.low), x, up(mark.high), "interval")
        canvas.dot(x, y, 4, mark.style, f"{mark.name}: {mark.value}")
    both = zip(marks, places, strict=True)
    for mark, (x, y) in sorted(both, key=lambda pair: not pair[0].measured):
        _name(canvas, mark, x, y, taken)


def _name(canvas: Canvas, mark: Mark, x: float, y: float, taken: list[Box]) -> None:
    size = TEXT if mark.measured else TEXT - 2
    width = len(mark.name) * size * LETTER
    styles = f"{mark.style}-text" + ("" if mark.measured else " small")
    right, left, middle = (x + 7, ""), (x - 7, "end"), (x, "mid")
    places = [(right, y + 4), (left, y + 4), (middle, y - 8), (middle, y + 16)]
    places += [(side, y + shift) for side in (right, left) for shift in (-6, 14)]
    for (at, anchor), base in places:
        start = at - {"": 0.0, "end": width, "mid": width / 2}[anchor]
        box = (start, base - size + 1, start + width, base + 2)
        inside = box[0] >= 34 and box[2] <= WIDTH and box[1] >= 0 and box[3] <= canvas.height - 36
        if inside and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            canvas.text(at, base, mark.name, f"{styles} {anchor}")
            return
    if mark.measured:
        canvas.text(min(x + 7, WIDTH - width), y + 4, mark.name, styles)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
