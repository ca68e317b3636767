"""The checkpoints of a run: written in the background; recent ones and milestones are kept."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hear_axlstm.training.checkpoints import Checkpoint, CheckpointError, load, save

log = logging.getLogger(__name__)

SUFFIX = ".safetensors"
MILESTONE = f".milestone{SUFFIX}"
NAME = re.compile(rf"step-\d+({re.escape(MILESTONE)}|{re.escape(SUFFIX)})")


class CheckpointManager:
    """Writes checkpoints into a folder in a background thread; use it as a context manager.

    Args:
        folder: folder of the checkpoints; only one run at a time may write there.
        kept: number of recent checkpoints to keep besides the milestones.
    """

    def __init__(self, folder: Path, kept: int) -> None:
        self.folder = folder
        self.kept = kept
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        for partial in folder.glob("*.partial"):
            partial.unlink()  # left by a killed process

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()

    def save(self, checkpoint: Checkpoint, milestone: bool) -> None:
        """Write a checkpoint in the background, after waiting for the previous one.

        A checkpoint with non-finite values is not written, so that the last one stays usable.

        Args:
            checkpoint: checkpoint to write.
            milestone: whether to keep it permanently.

        Raises:
            CheckpointError: if the previous one could not be written.
        """
        self.wait()
        self._writing = self._thread.submit(self._write, checkpoint, milestone)

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            CheckpointError: if it could not be written; older ones are kept.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write(self, checkpoint: Checkpoint, milestone: bool) -> None:
        if not checkpoint.is_finite:
            log.warning("step %d is not saved: it is not finite", checkpoint.step)
            return
        path = self.folder / f"step-{checkpoint.step:08d}{MILESTONE if milestone else SUFFIX}"
        save(path, checkpoint)
        passing = [p for p in list_checkpoints(self.folder) if not p.name.endswith(MILESTONE)]
        keep = [p for p in passing if p <= path][-self.kept :]  # later ones are damaged or obsolete
        for old in passing:
            if old not in keep:
                old.unlink(missing_ok=True)


def load_latest(
    folder: Path,
    last_step: float = math.inf,
    accepts: Callable[[Mapping[str, Any]], bool] = lambda _: True,
) -> Checkpoint | None:
    """Load the last intact checkpoint; None if the folder has none.

    Args:
        folder: folder of the checkpoints.
        last_step: later checkpoints are ignored.
        accepts: whether to use a checkpoint of a run with these settings.

    Raises:
        CheckpointError: if there are checkpoints, but all are damaged.
    """
    paths = [path for path in list_checkpoints(folder) if _step(path) <= last_step]
    damaged = 0
    for path in reversed(paths):
        try:
            checkpoint = load(path)
        except CheckpointError as error:
            log.warning("%s; trying the checkpoint before it", error)
            damaged += 1
            continue
        if accepts(checkpoint.settings):
            return checkpoint
    if paths and damaged == len(paths):
        raise CheckpointError(
            f"no checkpoint in {folder} is usable: delete the folder to train from the start"
        )
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """List checkpoint files in the order of their steps."""
    return sorted(path for path in folder.glob(f"step-*{SUFFIX}") if NAME.fullmatch(path.name))


def _step(path: Path) -> int:
    return int(path.name.split("-")[1].split(".")[0])
