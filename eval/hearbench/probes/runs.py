"""The folder of one run: the probes of a system on a task with one seed, by either engine.

prediction-done.json         written last, with the time
test.predicted-scores.json   the scores, of each fold and aggregated
<fold>.predictions.pkl       targets and predictions of the test clips
task_metadata.json, labelvocabulary.csv    of the task; the report reads them
(links to the embeddings that the probes were trained on)
"""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Literal

SCORES = "test.predicted-scores.json"
DONE = "prediction-done.json"
COPIED = ("task_metadata.json", "labelvocabulary.csv")
ProductType = Literal["float32", "bfloat16"]
"""Type of the matrix products in training by the engine `fast`."""


def make_fresh(folder: Path, embeddings: Path) -> None:
    """Empty `folder` and link the files of `embeddings` into it, or copy them.

    A run can be reported without its embeddings, so what the report reads is always copied.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in embeddings.iterdir():
        if file.is_file() and not file.name.startswith("."):
            target = folder / file.name
            if file.name in COPIED or not _link(file, target):
                shutil.copyfile(file, target)


def _link(file: Path, target: Path) -> bool:
    """Make `target` a link to a file, unless the system does not allow it."""
    try:
        # without links in either path: of a linked folder, ".." is not where it seems to be
        where = os.path.relpath(os.path.realpath(file), os.path.realpath(target.parent))
        target.symlink_to(where)
    except (OSError, ValueError):  # on some file systems; on Windows, also from drive to drive
        return False
    return True


def finished(folder: Path, precision: ProductType | None = None) -> bool:
    """Whether the run in `folder` is complete, with products of this type; None for any."""
    try:
        done = json.loads((folder / DONE).read_text("utf-8"))
    except (FileNotFoundError, ValueError):  # absent, or cut off while it was written
        return False
    of_type = precision is None or done.get("precision") == precision
    return "time" in done and of_type and (folder / SCORES).is_file()


def test_score(folder: Path) -> tuple[float, float]:
    """The primary metric's test score and the seconds it took.

    Of several folds it is the mean, which is NaN if a fold's score is.
    """
    scores = json.loads((folder / SCORES).read_text("utf-8"))
    seconds = json.loads((folder / DONE).read_text("utf-8"))["time"]
    if "aggregated_scores" not in scores:
        return scores["test"]["test_score"], seconds
    parts = [part for part in scores.values() if isinstance(part, dict) and "test_score" in part]
    if any(math.isnan(part["test_score"]) for part in parts):  # heareval's mean leaves them out
        return math.nan, seconds
    return scores["aggregated_scores"]["test_score_mean"], seconds
