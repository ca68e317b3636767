"""The engine `heareval`: the official package, unmodified, trains the probes of each seed.

heareval 2021.1.3 lacks options that the AxLSTM paper's protocol needs, so two of its module globals
are rebound around the call to its runner: the seeding (a hard-coded 42) and the grid. None of its
code is edited or copied; all of its output goes to a log file.
"""

from __future__ import annotations

import json
import logging
import os
import pickletools
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

from hearbench.errors import HearbenchError
from hearbench.logs import output_to
from hearbench.probes.grid import GRID_POINTS, Grid, paper_grid
from hearbench.probes.runs import finished, make_fresh

TRUST_CHECKPOINTS = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
"""Lets torch >= 2.6 load heareval's checkpoints, which contain more than tensors."""
PACKAGES = ("heareval", "pytorch_lightning", "intervaltree", "sed_eval", "click")
WITHOUT_CODE = frozenset(
    {"PROTO", "FRAME", "STOP", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "MARK"}
    | {"EMPTY_LIST", "APPEND", "APPENDS", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
    | {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
)
"""The operations of a pickle of lists of labels: none of them calls anything."""


class HearevalError(HearbenchError, RuntimeError):
    """Raised if heareval can't be used; the message names the remedy."""


def check_installed(why: str) -> None:
    """Check that the official packages are installed.

    Args:
        why: the feature that needs them, for the error message.

    Raises:
        HearevalError: if one is missing.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise HearevalError(
            f"{why} needs the official heareval, and {missing[0]} is not installed: "
            "pip install --no-deps -r eval/requirements-official.txt, then "
            "pip install './eval[heareval]'"
        )


def train_and_test(embeddings: Path, folders: Mapping[int, Path], grid: Grid, log: Path) -> None:
    """Train and test the probes of several seeds one after another.

    Finished folders are kept.

    Args:
        embeddings: result of `hearbench.embed.embedded`.
        folders: folder of the results by seed, which replaces heareval's 42; created, or emptied if
            unfinished. heareval writes next to the embeddings, so they are linked there.
        grid: `paper` searches 2 settings, `heareval` 8 of its own 16.
        log: file that the output is appended to; it may be in a seed's folder.

    Raises:
        HearevalError: if a package is missing, or a file of labels could run code.
    """
    missing = {seed: folder for seed, folder in folders.items() if not finished(folder)}
    if not missing:
        return
    check_installed("the engine heareval")
    for labels in embeddings.glob("*.target-labels.pkl"):
        check_labels(labels)
    for seed, folder in missing.items():
        make_fresh(folder, embeddings)
        with output_to(log), mock.patch.dict(os.environ, TRUST_CHECKPOINTS):
            _train_and_test(folder, seed, grid)


def _train_and_test(folder: Path, seed: int, grid: Grid) -> None:
    """Run heareval on the embeddings in `folder`, which also gets the results."""
    from heareval.predictions import runner, task_predictions

    param_grid = {**task_predictions.PARAM_GRID, **(paper_grid() if grid == "paper" else {})}
    seed_everything = task_predictions.seed_everything
    changes: dict[str, Any] = {
        "PARAM_GRID": param_grid,
        "seed_everything": lambda _, workers=False: seed_everything(seed, workers=workers),
    }
    # Absolute, or Lightning's logs would go to ./logs, where seeds overwrite each other.
    args = [str(folder.resolve()), "--grid-points", str(GRID_POINTS[grid])]
    try:
        with mock.patch.multiple(task_predictions, **changes):
            runner.runner.main(args, standalone_mode=False)
    finally:
        close_loggers(folder)
    for checkpoints in folder.glob("lightning_logs/*/checkpoints"):  # up to 0.5 GB per seed
        shutil.rmtree(checkpoints)


def check_labels(file: Path) -> None:
    """Raise for a pickle that contains more than lists of labels, since heareval unpickles it.

    Raises:
        HearevalError: naming the first operation that a list of labels does not need.
    """
    try:
        for operation, _, _ in pickletools.genops(file.read_bytes()):
            if operation.name not in WITHOUT_CODE:
                raise HearevalError(
                    f"{file} is not a list of labels (it contains {operation.name}) and could run "
                    "code: delete this folder and embed again"
                )
    except ValueError as error:
        raise HearevalError(f"{file} is damaged ({error}): embed again") from error


def close_loggers(folder: Path) -> None:
    """Detach the handlers of heareval's logger, so that the next seed does not write to this log.

    heareval names its loggers after the task, so one process reuses them.
    """
    name = json.loads((folder / "task_metadata.json").read_text("utf-8"))["task_name"]
    logger = logging.getLogger(name)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
