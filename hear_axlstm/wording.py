"""Numbers with their nouns, and durations, for messages."""

from __future__ import annotations


def plural(number: int, noun: str) -> str:
    """Format a number with its noun in singular or plural."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def duration(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    if round(seconds / 60, 1) < 60:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.1f} h"
