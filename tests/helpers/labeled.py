"""Noisy tones of three pitches in a CSV, for fine-tuning."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from hear_axlstm.config import ModelConfig

SMALL = ModelConfig(dim=32, depth=2)
RATE = 16_000
PITCHES = {"low": 200.0, "middle": 900.0, "high": 4000.0}
Row = dict[str, object]


def write_pitches(folder: Path) -> Path:
    """tones.csv: ten noisy tones of each pitch, of different lengths, in two folds."""
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for index in range(30):
        name, hertz = list(PITCHES.items())[index % 3]
        time = np.arange(int(rng.uniform(0.3, 0.6) * RATE)) / RATE
        noise = 0.05 * rng.standard_normal(len(time))
        soundfile.write(
            folder / f"{index}.wav", 0.3 * np.sin(2 * np.pi * hertz * time) + noise, RATE
        )
        rows.append({"path": f"{index}.wav", "label": name, "fold": index // 3 % 2})
    return write(folder / "tones.csv", rows)


def write(path: Path, rows: Sequence[Row]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows_of(tones: Path, **columns: object) -> list[Row]:
    with tones.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{**row, "path": tones.parent / row["path"], **columns} for row in rows]
