"""Numbers with their nouns, lists and durations, for messages."""

from __future__ import annotations

from collections.abc import Sequence


def plural(number: int, noun: str) -> str:
    """Format a number with its noun in singular or plural."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def listed(items: Sequence[str], most: int = 10, joint: str = ", ") -> str:
    """Join the first items, and count the others."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return joint.join(items[:most]) + more


def indented(lines: Sequence[str], most: int = 10) -> str:
    """The first items, each on an indented line of its own, and the number of others."""
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return "".join(f"\n  {line}" for line in [*lines[:most], *more])


def duration(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    if round(seconds / 60, 1) < 60:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.1f} h"


def unformatted(text: str) -> str:
    """Text for matplotlib, which would typeset what is between two dollar signs as a formula."""
    return text.replace("$", r"\$")
