"""The checkpoints of a run: written beside the training, the last few and the milestones kept."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from hear_axlstm.training.checkpoints import PARTIAL, Checkpoint, CheckpointError, load, save

log = logging.getLogger(__name__)

SUFFIX = ".safetensors"
MILESTONE = f".milestone{SUFFIX}"


class CheckpointManager:
    """Writes checkpoints into a folder; while entered, in a thread of its own.

    Args:
        folder: of the checkpoints; one run at a time may write there.
        kept: so many of the last ones stay, besides the milestones.
    """

    def __init__(self, folder: Path, kept: int) -> None:
        self.folder = folder
        self.kept = kept
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        for partial in folder.glob(f"*{PARTIAL}"):
            partial.unlink()  # what a killed process was writing

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown()
        if error is None:
            self.wait()

    def save(self, checkpoint: Checkpoint, milestone: bool) -> None:
        """Write a checkpoint, a milestone for good; waits for nothing but the one before.

        One with a number that is not finite is not written: the last good one stays the last.

        Raises:
            CheckpointError: if the one before could not be written.
        """
        self.wait()
        self._writing = self._thread.submit(self._write, checkpoint, milestone)

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            CheckpointError: if it could not be written; older ones stay.
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
        keep = [p for p in passing if p <= path][-self.kept :]  # later ones were damaged
        for old in passing:
            if old not in keep:
                old.unlink(missing_ok=True)


def load_latest(folder: Path) -> Checkpoint | None:
    """The last checkpoint that is whole; None if the folder has none.

    Raises:
        CheckpointError: if there are some, but every one is damaged.
    """
    paths = list_checkpoints(folder)
    for path in reversed(paths):
        try:
            return load(path)
        except CheckpointError as error:
            log.warning("%s; trying the checkpoint before it", error)
    if paths:
        raise CheckpointError(
            f"no checkpoint in {folder} is usable: delete the folder to train from the start"
        )
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files, the earliest step first."""
    return sorted(folder.glob(f"step-*{SUFFIX}"))
