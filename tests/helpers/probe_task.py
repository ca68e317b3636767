"""Generated embeddings of a task as heareval writes them: noisy, overlapping clusters."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 5
FEATURES = 16
# heareval takes numbers from here, so that a probe takes a second, stops early and has several
# batches, the last of them short
SMALL = {
    "hidden_dim": [32],
    "batch_size": [32],
    "max_epochs": [45],
    "patience": [5],
    "lr": [3e-3, 1e-3],
}


def write_embeddings(
    folder: Path,
    folds: int = 0,
    multilabel: bool = False,
    clips: int = 75,
    classes: int = CLASSES,
    features: int = FEATURES,
    **grid: list[Any],
) -> Path:
    """Write `folds` folds (0: train, valid, test) with about `clips` clips in each split."""
    rng = np.random.default_rng(0)
    shuffle = random.Random(0).shuffle  # heareval's order of rows, split after split
    centers = rng.normal(size=(classes, features))
    folder.mkdir(parents=True)
    splits = [f"fold{i:02d}" for i in range(folds)] or ["train", "valid", "test"]
    for number, split in enumerate(splits):
        shape = (clips + number, features)
        hit = np.eye(classes, dtype=bool)[rng.integers(classes, size=shape[0])]
        if multilabel:  # none to three labels a clip
            hit = rng.random(hit.shape) < 0.3
        x = (hit @ centers + 1.5 * rng.normal(size=shape)).astype(np.float32)
        x.tofile(folder / f"{split}.embeddings.npy")
        (folder / f"{split}.embedding-dimensions.json").write_text(json.dumps(shape), "utf-8")
        labels = [[f"class {c}" for c in np.flatnonzero(row)] for row in hit]
        (folder / f"{split}.target-labels.pkl").write_bytes(pickle.dumps(labels))
        names = [f"{split}-{i}.wav" for i in range(len(labels))]
        rows = list(names)
        shuffle(rows)
        label_of = dict(zip(rows, labels, strict=True))
        content = {name: label_of[name] for name in names}
        (folder / f"{split}.json").write_text(json.dumps(content), "utf-8")
    rows = [f"{c},class {c}" for c in range(classes)]
    (folder / "labelvocabulary.csv").write_text("\n".join(["idx,label", *rows]) + "\n", "utf-8")
    metadata = {
        "task_name": folder.name,
        "version": "v1",
        "sample_duration": None,
        "embedding_type": "scene",
        "prediction_type": "multilabel" if multilabel else "multiclass",
        "split_mode": "new_split_kfold" if folds else "trainvaltest",
        "evaluation": ["mAP", "d_prime", "aucroc"] if multilabel else ["top1_acc", "mAP"],
        "splits": splits,
        "evaluation_params": {"task_specific_param_grid": {**SMALL, **grid}},
    }
    (folder / "task_metadata.json").write_text(json.dumps(metadata), "utf-8")
    return folder
