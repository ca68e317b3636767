"""The engine `fast` on tasks of the ten HEAR tasks' sizes, with generated embeddings."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.sizes import Sizes
from hear_axlstm.config import preset
from hearbench.probes import fast
from hearbench.probes.runs import finished
from hearbench.tasks.official import OfficialTask
from tests.helpers.probe_task import write_embeddings


def probes(sizes: Sizes, task: OfficialTask) -> dict[str, Any]:
    """Seconds to train and test all seeds of the paper's grid, on all folds.

    The clips are spread over the splits evenly, even where a task has a smaller test split.
    """
    clips = min(task.clips, sizes.task_clips)
    folds = task.folds if task.folds > 1 else 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        embeddings = write_embeddings(
            folder / "task",
            folds,
            multilabel=task.metric == "mAP",
            clips=clips // (folds or 3),
            classes=task.classes,
            features=preset("axlstm_tiny").embedding_size,
            hidden_dim=[1024],
            batch_size=[1024],
            max_epochs=[sizes.epochs],
            patience=[sizes.epochs],
            lr=[1e-4],
        )
        results = {seed: folder / f"seed{seed}" for seed in range(sizes.seeds)}
        precision = fast.fastest_precision()
        start = time.perf_counter()
        fast.train_and_test(embeddings, results, "paper", folder / "log", precision)
        seconds = time.perf_counter() - start
        if not all(map(finished, results.values())):
            raise RuntimeError("the probes left a seed without its results")
    return {
        "clips": clips,
        "seeds": sizes.seeds,
        "epochs": sizes.epochs,
        "seconds": seconds,
        "seconds_a_seed": seconds / sizes.seeds,
    }
