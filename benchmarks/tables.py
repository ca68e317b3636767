"""Markdown tables of the benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tqdm import tqdm


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield _line(header)
    yield "|---" * len(header) + "|"
    yield from map(_line, rows)


def show(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table under its title, with each row as soon as it is measured."""
    print(f"\n{title}\n")
    for line in markdown(header, rows):
        tqdm.write(line)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
