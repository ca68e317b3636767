"""A task for mteb that lies in memory; mteb and datasets must be installed."""

from __future__ import annotations

import datasets
import numpy as np
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.task_metadata import TaskMetadata


def tones(per_class: int, seed: int) -> datasets.Dataset:
    """Low and high tones of different lengths."""
    rng = np.random.default_rng(seed)
    rows = []
    for label, hertz in ((0, 200.0), (1, 2000.0)):
        for _ in range(per_class):
            time = np.arange(rng.integers(6000, 12_000)) / 16_000
            wave = 0.3 * np.sin(2 * np.pi * hertz * rng.uniform(0.9, 1.1) * time)
            audio = {"array": wave.astype(np.float32), "sampling_rate": 16_000}
            rows.append({"audio": audio, "label": label})
    return datasets.Dataset.from_list(rows)


class Tones(AbsTaskClassification):
    """Which of two tones a clip is."""

    metadata = TaskMetadata(
        name="Tones",
        description="Low or high tones.",
        reference=None,
        dataset={"path": "local/tones", "revision": "1"},
        type="AudioClassification",
        category="a2c",
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="accuracy",
        date=None,
        domains=None,
        task_subtypes=None,
        license=None,
        annotations_creators=None,
        dialect=None,
        sample_creation=None,
        bibtex_citation=None,
        modalities=["audio"],
    )
    input_column_name = "audio"
    label_column_name = "label"
    samples_per_label = 4
    n_experiments = 2

    def load_data(self, **_: object) -> None:
        """Make the clips."""
        self.dataset = datasets.DatasetDict({"train": tones(8, 0), "test": tones(6, 1)})
        self.data_loaded = True
