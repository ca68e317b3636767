"""Compare poolings over time, layers, and added log-mel statistics for a clip's embedding.

    python -m scripts.pooling TASKS pitch-notes percussion-4 speech_commands-12words

prints test accuracies of ridge classifiers, with regularization chosen by leave-one-out. HEAR's
probes are stronger, but these need no seeds, and every column is treated alike. For tasks of one
label per clip.

Shapes: n clips, J time steps, D' embedding size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.tables import show
from hear_axlstm import load_model
from hear_axlstm.audio.io import load_audio
from hear_axlstm.embed.embedder import Embedder
from hearbench.systems import logmel
from hearbench.tasks.description import TaskError, cross_validation_folds
from hearbench.tasks.folders import Task, find_tasks

ALPHAS = np.logspace(0, 6, 7)
AT_ONCE = 64  # clips
LAYERS = (3, 6, 9)

Embeddings = dict[str, NDArray[np.float32]]
POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {  # of time steps [J, D']
    "mean": lambda steps: steps.mean(0),
    "mean, std": lambda steps: torch.cat([steps.mean(0), steps.std(0, correction=0)]),
    "mean, maximum": lambda steps: torch.cat([steps.mean(0), steps.amax(0)]),
}


def main(
    tasks: tyro.conf.Positional[Path],
    names: tyro.conf.Positional[tuple[str, ...]] = (),
    model: str = "axlstm_tiny",
) -> None:
    """Print a Markdown table, one row for each task.

    Args:
        tasks: Folder of HEAR tasks.
        names: Tasks to use (default: all); each must have one label per clip.
        model: Weights, as in `load_model`.
    """
    try:
        found_tasks = find_tasks(tasks, names)
    except TaskError as error:
        raise SystemExit(f"error: {error}") from None
    for task in found_tasks:
        kind = task.metadata["embedding_type"], task.metadata["prediction_type"]
        if kind != ("scene", "multiclass"):
            raise SystemExit(f"error: {task.path.name} is not a task of one label per clip")
    embedder = load_model(model, pooling="mean")
    columns = [*POOLINGS, *(f"layer {n}" for n in LAYERS), "log-mel", "mean, log-mel"]
    rows = []
    for task in tqdm(found_tasks):
        found = {split: _embed(task, split, embedder) for split in task.splits}
        labels = {split: _labels(task, split) for split in task.splits}
        rows.append([task.path.name, *(f"{_accuracy(found, labels, c):.1%}" for c in columns)])
    show(f"Test accuracy, {model}:", ("task", *columns), rows)


def _labels(task: Task, split: str) -> NDArray[np.str_]:
    return np.array([str(labels[0]) for labels in task.labels[split].values()])


def _embed(task: Task, split: str, embedder: Embedder) -> Embeddings:
    """All embeddings of a split's clips, each ``[n, ...]``."""
    rate = embedder.sample_rate
    folder = task.path / str(rate) / split
    clips = [torch.from_numpy(load_audio(folder / clip, rate)) for clip in task.labels[split]]
    shallow = {f"layer {n}": _first_layers(embedder, n) for n in LAYERS}
    baseline, rows = logmel.load_model(), []
    for start in range(0, len(clips), AT_ONCE):
        some = clips[start : start + AT_ONCE]
        rows.append(_pool(some, embedder))
        for name, encoder in shallow.items():
            rows[-1][name] = torch.as_tensor(encoder.embed_scenes(some)).numpy()
        rows[-1]["log-mel"] = np.concatenate(
            [logmel.get_scene_embeddings(clip[None], baseline).numpy() for clip in some]
        )
    found = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return found | {"mean, log-mel": np.hstack([found["mean"], found["log-mel"]])}


def _pool(clips: list[Tensor], embedder: Embedder) -> Embeddings:
    steps, _ = embedder.embed_timestamps(clips)
    return {n: torch.stack([pool(s) for s in steps]).numpy() for n, pool in POOLINGS.items()}


def _first_layers(embedder: Embedder, number: int) -> Embedder:
    shallow = copy.deepcopy(embedder).unfuse()
    shallow.encoder.blocks = nn.ModuleList(list(shallow.encoder.blocks)[:number])
    return shallow.infer()


def _accuracy(
    found: dict[str, Embeddings], labels: dict[str, NDArray[np.str_]], column: str
) -> float:
    """Share of correct test clips, over all folds."""
    right = []
    for train, test in _splits(labels):
        x = np.concatenate([found[split][column] for split in train])
        y = np.concatenate([labels[split] for split in train])
        classifier = make_pipeline(StandardScaler(), RidgeClassifierCV(ALPHAS)).fit(x, y)
        right.append(classifier.predict(found[test][column]) == labels[test])
    return float(np.concatenate(right).mean())


def _splits(names: Iterable[str]) -> list[tuple[list[str], str]]:
    """Training splits and test split of each fold."""
    if {"train", "valid", "test"} == set(names):
        return [(["train", "valid"], "test")]
    return [([*train, valid], test) for train, valid, test in cross_validation_folds(list(names))]


if __name__ == "__main__":
    tyro.cli(main)
