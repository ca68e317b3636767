"""On real recordings: set HEAR_AXLSTM_DATA to a folder of tasks in HEAR format, 16 kHz."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hear_axlstm import get_scene_embeddings, load_model
from hear_axlstm.audio import load_audio

TASKS = os.environ.get("HEAR_AXLSTM_DATA")
TASK = "speech_commands-12words"
SECOND = 16_000
CLIPS = 500  # of each split: enough to tell 12 points apart, and half a minute


@pytest.fixture(scope="module")
def task() -> Path:
    if TASKS is None or not Path(TASKS, TASK).is_dir():
        pytest.skip(f"needs {TASK} in the folder that HEAR_AXLSTM_DATA names")
    return Path(TASKS, TASK)


def clips(task: Path, split: str) -> tuple[torch.Tensor, list[str]]:
    labels: dict[str, list[str]] = json.loads((task / f"{split}.json").read_text())
    names = np.random.default_rng(0).permutation(sorted(labels))[:CLIPS]
    audio = [load_audio(task / "16000" / split / name)[:SECOND] for name in names]
    padded = [np.pad(clip, (0, SECOND - len(clip))) for clip in audio]
    return torch.from_numpy(np.stack(padded)), [labels[name][0] for name in names]


@pytest.mark.slow
def test_shipped_weights_beat_random_ones_on_spoken_words(task: Path) -> None:
    (train, train_labels), (test, test_labels) = clips(task, "train"), clips(task, "test")

    def accuracy(pretrained: bool) -> float:
        model = load_model("axlstm_tiny", pretrained=pretrained)
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
        probe.fit(get_scene_embeddings(train, model), train_labels)
        return probe.score(get_scene_embeddings(test, model), test_labels)

    assert accuracy(pretrained=True) > accuracy(pretrained=False) + 0.05
