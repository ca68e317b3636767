"""SVG by hand: a canvas as wide as a phone, elements, ticks. Colors are the style sheet's."""

from __future__ import annotations

import math
from html import escape

WIDTH = 360.0  # user units; a phone shows them as pixels
TEXT = 11.0  # size of most text
LETTER = 0.6  # mean width of a letter in units of its size


class Canvas:
    """A picture in the making."""

    def __init__(self, height: float, title: str) -> None:
        self.height = height
        self.title = title
        self.parts: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """A straight line."""
        self.parts.append(
            f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
        )

    def bar(self, x: float, y: float, width: float, height: float, style: str) -> None:
        """A filled rectangle."""
        self.parts.append(
            f'<rect class="{style}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" '
            f'height="{height:.1f}" rx="2"/>'
        )

    def dot(self, x: float, y: float, radius: float, style: str, hint: str = "") -> None:
        """A filled circle; the hint shows under a pointer."""
        inner = f"<title>{escape(hint)}</title>" if hint else ""
        self.parts.append(
            f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">{inner}</circle>'
        )

    def text(self, x: float, y: float, text: str, style: str = "", room: float = math.inf) -> None:
        """Text on a baseline, cut to `room` units; styles `end` and `mid` say where x is."""
        shown = cut(text, room)
        inner = escape(shown) + (f"<title>{escape(text)}</title>" if shown != text else "")
        self.parts.append(f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{inner}</text>')

    def turned(self, x: float, y: float, text: str, room: float) -> None:
        """Text that reads upwards and ends at (x, y)."""
        shown = escape(cut(text, room))
        place = f'transform="translate({x:.1f} {y:.1f}) rotate(-90)"'
        self.parts.append(f'<text class="end small" {place}>{shown}</text>')

    def raw(self, part: str) -> None:
        """Any element."""
        self.parts.append(part)

    def svg(self) -> str:
        """The whole picture."""
        return (
            f'<svg viewBox="0 0 {WIDTH:.0f} {self.height:.0f}" role="img" '
            f'aria-label="{escape(self.title)}">{"".join(self.parts)}</svg>'
        )


def cut(text: str, room: float) -> str:
    """`text`, shortened in its middle so that it is about `room` units wide at most."""
    letters = int(room / (TEXT * LETTER)) if math.isfinite(room) else len(text)
    if len(text) <= letters:
        return text
    front = max(letters * 2 // 3, 1)
    back = max(letters - front - 1, 0)
    return f"{text[:front]}…{text[len(text) - back :] if back else ''}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from `low` to `high`."""
    rough = max(high - low, 1e-9) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(step * k, 10) for k in range(first, last + 1)]


class Scale:
    """Values to positions: from `low` at `start` to `high` at `end`, logarithmic if asked."""

    def __init__(
        self, low: float, high: float, start: float, end: float, logarithmic: bool = False
    ) -> None:
        self.of = math.log10 if logarithmic else float
        self.low, self.high = self.of(low), self.of(high)
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        share = (self.of(value) - self.low) / max(self.high - self.low, 1e-12)
        return self.start + share * (self.end - self.start)
