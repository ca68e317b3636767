"""A tiny task in HEAR's format, for tests: low against high tones with some noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE = 16_000
LABELS = ("high", "low")
FREQUENCIES = {"low": 200.0, "high": 3_000.0}  # Hz


def write_task(
    folder: Path, folds: int = 0, clips: int = 12, rate: int = SAMPLE_RATE, **metadata: object
) -> Path:
    """Write a task of `folds` folds (0: train, valid, test) with `clips` clips in each split."""
    splits = [f"fold{i:02d}" for i in range(folds)] or ["train", "valid", "test"]
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for split in splits:
        audio = folder / str(rate) / split
        audio.mkdir(parents=True)
        labels = {f"{split}-{i}.wav": [LABELS[i % 2]] for i in range(clips)}
        (folder / f"{split}.json").write_text(json.dumps(labels), "utf-8")
        for clip, (label,) in labels.items():
            time = np.arange(rate // 4) / rate
            tone = 0.1 * np.sin(2 * np.pi * FREQUENCIES[label] * time)
            soundfile.write(audio / clip, tone + 0.3 * rng.normal(size=len(time)), rate)
    rows = [f"{index},{label}" for index, label in enumerate(LABELS)]
    (folder / "labelvocabulary.csv").write_text("\n".join(["idx,label", *rows]) + "\n", "utf-8")
    settings: dict[str, object] = {
        "task_name": folder.name,
        "version": "v1",
        "embedding_type": "scene",
        "prediction_type": "multiclass",
        "split_mode": "new_split_kfold" if folds else "trainvaltest",
        "sample_duration": 0.25,
        "evaluation": ["top1_acc", "mAP"],
        "mode": "test",
        "splits": splits,
        # heareval reads this; so few epochs that a probe takes a second
        "evaluation_params": {"task_specific_param_grid": {"max_epochs": [6]}},
    }
    (folder / "task_metadata.json").write_text(json.dumps(settings | metadata), "utf-8")
    return folder
