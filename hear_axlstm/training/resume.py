"""Where a run starts: alone in its folder, at the beginning or at its last checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from hear_axlstm.training.checkpoint_manager import load_latest
from hear_axlstm.training.checkpoints import Checkpoint
from hear_axlstm.training.distributed import DistContext

Resume = Literal["auto", "never"]

LOCK = ".lock"
CHECKPOINTS = "checkpoints"


@contextmanager
def lock_dir(run: Path, context: DistContext) -> Iterator[None]:
    """Hold the lock of a run's folder, which is created; the system releases it at process end.

    Raises:
        ValueError: if another training holds it.
    """
    if not context.is_first:
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(run / LOCK).acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another training is running in {run}: wait for it, stop it, or choose a new folder"
        ) from None
    with lock:
        yield


def find_resume(
    run: Path,
    data: str,
    conflicts: Callable[[Mapping[str, Any]], Sequence[str]],
    resume: Resume = "auto",
) -> Checkpoint | None:
    """The last checkpoint of a run, checked against the data and settings; None for a new run.

    Args:
        run: the run's folder.
        data: fingerprint of the data.
        conflicts: names the settings in which a run with the given ones can't be continued.
        resume: "never" refuses a folder with checkpoints.

    Raises:
        ValueError: if `run` holds another run, or one that may not be resumed.
        CheckpointError: if none of its checkpoints is usable.
    """
    start = load_latest(run / CHECKPOINTS)
    if start is None:
        return None
    if resume == "never":
        raise ValueError(f"{run} already holds a run, at step {start.step}: choose a new folder")
    if names := conflicts(start.settings):
        raise ValueError(
            f"{run} was started with other settings ({', '.join(names)}): "
            "use the same settings to resume, or choose a new folder"
        )
    if start.data != data:
        raise ValueError(f"{run} was started with other data: choose a new folder")
    return start
