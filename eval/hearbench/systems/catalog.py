"""The systems that come with hearbench, from catalog.csv: licenses, weights and choices made.

A name is a module `hearbench.systems.NAME`. Sizes and rates are those of the checkpoints in
the paper's Table 2; parameters are counted as the table counts them.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Card:
    """Facts about a system that a user needs before running it."""

    title: str
    """The system, and the paper that describes it."""
    rows: tuple[str, ...]
    """Its rows in the paper's Table 2."""
    code_license: str
    """SPDX identifier of the authors' code, which hearbench does not contain."""
    weights_license: str
    """License of the weights: an SPDX identifier, or a name."""
    sample_rate: int
    """Sample rate in Hz."""
    embedding_size: str
    """Width of a scene embedding."""
    parameters: str
    """Parameters in millions."""
    checkpoint: str
    """The part after @: a file, a run's folder or a name; empty if there are no weights."""
    published: str
    """Source of the weights."""
    verified: str
    """Reference that the adapter was compared with."""
    choices: str
    """Choices made where the paper or the authors' code leave a question open."""


def _read(row: dict[str, Any]) -> Card:
    rows = tuple(filter(None, row["rows"].split("; ")))
    return Card(**{**row, "rows": rows, "sample_rate": int(row["sample_rate"])})


with Path(__file__).with_suffix(".csv").open(newline="", encoding="utf-8") as _file:
    CATALOG: dict[str, Card] = {row.pop("name"): _read(row) for row in csv.DictReader(_file)}
