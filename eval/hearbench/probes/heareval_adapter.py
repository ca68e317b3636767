"""The unmodified heareval, in this process: where a task's embeddings lie, and a seed's probes.

heareval 2021.1.3 has no switch for what the AxLSTM paper's protocol needs, so two of its module
globals are rebound around the call to its own runner: the seeding (a hard-coded 42) and the grid.
Nothing of it is edited or repeated here; everything it says goes to a log file.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from hearbench.tasks.folders import Task

Grid = Literal["paper", "heareval"]
GRID_POINTS: dict[Grid, int] = {"paper": 2, "heareval": 8}
EMBEDDINGS_LOG = "embeddings.log"
PREDICTIONS_LOG = "output.log"
EMBEDDED = ".done.embeddings"
SCORES = "test.predicted-scores.json"
DONE = "prediction-done.json"  # heareval writes it last


def embedded(task: Task, folder: Path) -> Path | None:
    """The finished embeddings of `task` under `folder`: heareval's <module>/<task>."""
    done = next(folder.glob(f"*/{glob.escape(task.path.name)}/{EMBEDDED}"), None)
    return done.parent if done else None


def predict(embeddings: Path, folder: Path, seed: int, grid: Grid) -> None:
    """Train and test the probes of one seed in `folder`, from scratch, unless that is finished.

    Args:
        embeddings: what `embedded` gave.
        folder: this seed's own, since heareval writes beside the embeddings. They are linked.
        seed: replaces heareval's 42.
        grid: `paper` searches 2 settings, `heareval` 8 of its own 16.
    """
    if finished(folder):
        return
    make_fresh(folder, embeddings)
    with output_to(folder / PREDICTIONS_LOG), predictions_environment():
        from heareval.predictions import runner, task_predictions

        param_grid = {**task_predictions.PARAM_GRID, **(paper_grid() if grid == "paper" else {})}
        seeding = seeded(task_predictions.seed_everything, seed)
        # Absolute, or Lightning's logs would go to ./logs, where seeds overwrite each other.
        args = [str(folder.resolve()), "--grid-points", str(GRID_POINTS[grid])]
        try:
            with rebound(task_predictions, seed_everything=seeding, PARAM_GRID=param_grid):
                runner.runner.main(args, standalone_mode=False)
        finally:
            close_loggers(folder)
    for checkpoints in folder.glob("lightning_logs/*/checkpoints"):  # up to 0.5 GB a seed
        shutil.rmtree(checkpoints)


def make_fresh(folder: Path, embeddings: Path) -> None:
    """Make `folder` anew, with links to the files of `embeddings`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in embeddings.iterdir():
        if file.is_file() and not file.name.startswith("."):
            (folder / file.name).symlink_to(os.path.relpath(file, folder))


def finished(folder: Path) -> bool:
    """Whether the predictions in `folder` are complete."""
    try:
        return "time" in json.loads((folder / DONE).read_text()) and (folder / SCORES).is_file()
    except (FileNotFoundError, ValueError):  # absent, or cut off while it was written
        return False


def paper_grid() -> dict[str, list[Any]]:
    """The AxLSTM authors' search space, where it differs from heareval's PARAM_GRID."""
    from torch.nn.init import xavier_normal_

    return {
        "hidden_layers": [1],
        "dropout": [0.1, 0.25],
        "lr": [1e-4],
        "initialization": [xavier_normal_],
    }


def seeded(seed_everything: Callable[..., int], seed: int) -> Callable[..., int]:
    """`seed_everything` that takes `seed` whatever it is asked for."""
    return lambda _asked, workers=False: seed_everything(seed, workers=workers)


@contextmanager
def rebound(module: ModuleType, **values: Any) -> Iterator[None]:
    """Give names of `module` other values for a while."""
    before = {name: getattr(module, name) for name in values}
    try:
        for name, value in values.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


@contextmanager
def predictions_environment() -> Iterator[None]:
    """What heareval's predictions need of a present-day torch and TensorFlow.

    Its checkpoints, which it wrote itself, hold more than tensors; and tensorboard, if installed,
    would take the TensorFlow stand-in for the real one. Predictions need no TensorFlow at all.
    """
    tensorflow = sys.modules.get("tensorflow")
    variable = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable)
    sys.modules["tensorflow"] = None  # type: ignore[assignment]  # makes importing it fail
    os.environ[variable] = "1"
    try:
        yield
    finally:
        del sys.modules["tensorflow"]
        if tensorflow is not None:
            sys.modules["tensorflow"] = tensorflow
        del os.environ[variable]
        if before is not None:
            os.environ[variable] = before


def close_loggers(folder: Path) -> None:
    """Detach the handlers of heareval's logger, or the next seed would also write to this log.

    heareval names its loggers after the task, so that one process reuses them.
    """
    name = json.loads((folder / "task_metadata.json").read_text())["task_name"]
    logger = logging.getLogger(name)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Append this process's output to `log`, also that of C libraries."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for target, source in enumerate(saved, start=1):
                os.dup2(source, target)
                os.close(source)
