"""On real recordings: set HEAR_AXLSTM_DATA to a folder of tasks in HEAR format, 16 kHz."""

from __future__ import annotations

import csv
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
from hear_axlstm.audio.io import load_audio
from hear_axlstm.finetune.config import FinetuneConfig
from hear_axlstm.finetune.run import finetune

TASKS = os.environ.get("HEAR_AXLSTM_DATA")
TASK = "speech_commands-12words"
ESC50 = "esc50-v2.0.0-full"
SECOND = 16_000
CLIPS = 500  # of each split: enough to tell 12 points apart, and half a minute


@pytest.fixture(scope="module")
def task() -> Path:
    if TASKS is None or not Path(TASKS, TASK).is_dir():
        pytest.skip(f"needs {TASK} in the folder that HEAR_AXLSTM_DATA names")
    return Path(TASKS, TASK)


def clips(task: Path, split: str) -> tuple[torch.Tensor, list[str]]:
    labels: dict[str, list[str]] = json.loads((task / f"{split}.json").read_text("utf-8"))
    names = np.random.default_rng(0).permutation(sorted(labels))[:CLIPS]
    audio = [load_audio(task / "16000" / split / name)[:SECOND] for name in names]
    padded = [np.pad(clip, (0, SECOND - len(clip))) for clip in audio]
    return torch.from_numpy(np.stack(padded)), [labels[name][0] for name in names]


@pytest.mark.slow
def test_shipped_weights_beat_random_ones_on_spoken_words(task: Path) -> None:
    (train, train_labels), (test, test_labels) = clips(task, "train"), clips(task, "test")

    def accuracy(name: str) -> float:
        model = load_model(name)
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
        probe.fit(get_scene_embeddings(train, model), train_labels)
        return probe.score(get_scene_embeddings(test, model), test_labels)

    assert accuracy("axlstm_tiny") > accuracy("axlstm_tiny.random") + 0.05


@pytest.mark.slow
def test_a_linear_probe_on_esc50_is_as_good_as_heareval_s(tmp_path: Path) -> None:
    """Heareval's probes of the shipped weights: 42.75 to 43.75 % (benchmarks/RESULTS.md)."""
    if TASKS is None or not Path(TASKS, ESC50).is_dir():
        pytest.skip(f"needs {ESC50} in the folder that HEAR_AXLSTM_DATA names")
    with (tmp_path / "esc50.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "fold"])
        for fold in range(5):
            labels = json.loads(Path(TASKS, ESC50, f"fold0{fold}.json").read_text(encoding="utf-8"))
            folder = Path(TASKS, ESC50, "16000", f"fold0{fold}").resolve()
            writer.writerows([folder / name, label[0], fold + 1] for name, label in labels.items())
    config = FinetuneConfig(model="axlstm_tiny", test_fold="1", valid_fold="2", device="cpu")
    found = finetune(tmp_path / "esc50.csv", tmp_path / "run", config).scores
    assert found["test"]["accuracy"] > 0.4308 - 0.01
