"""Start of a run: the lock on its folder, and the checkpoint to resume from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from hear_axlstm.files import sole_writer
from hear_axlstm.training.checkpoint_manager import load_latest
from hear_axlstm.training.checkpoints import Checkpoint
from hear_axlstm.training.distributed import DistContext

Resume = Literal["auto", "never"]

LOCK = ".lock"
CHECKPOINTS = "checkpoints"


@contextmanager
def lock_dir(run: Path, context: DistContext) -> Iterator[None]:
    """Create and lock a run's folder; the system releases the lock when the process ends.

    Raises:
        BlockingIOError: if another process has locked it.
    """
    if not context.is_first:
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    with sole_writer(run, LOCK):
        yield


def check_folder(run: Path, settings: str, keys: Collection[str], written: Sequence[str]) -> None:
    """Raise if a run would replace files in its folder that no earlier run has written.

    Args:
        run: the run's folder.
        settings: name of the JSON file that every run writes first.
        keys: keys by which it is recognized.
        written: names of files and folders that a run writes or removes.

    Raises:
        ValueError: naming one of these files.
    """
    try:
        found = json.loads((run / settings).read_text("utf-8"))
    except (OSError, ValueError):
        found = None
    if isinstance(found, dict) and found.keys() >= set(keys):
        return
    if there := [name for name in (settings, *written) if os.path.lexists(run / name)]:
        raise ValueError(
            f"{run} contains {there[0]}, which no earlier run of this command has written and "
            "which would be replaced: choose a new folder"
        )


def find_resume(
    run: Path,
    data_fingerprint: str,
    conflicts: Callable[[Mapping[str, Any]], Sequence[str]],
    resume: Resume = "auto",
) -> Checkpoint | None:
    """Find the last checkpoint of a run and check its data and settings; None for a new run.

    Args:
        run: the run's folder.
        data_fingerprint: fingerprint of the data.
        conflicts: returns the names of conflicting settings of a run with the given settings.
        resume: "never" raises for a folder with checkpoints.

    Raises:
        ValueError: if `run` holds another run, or one that may not be resumed.
        CheckpointError: if none of its checkpoints is usable.
    """
    start = load_latest(run / CHECKPOINTS)
    if start is None:
        return None
    if resume == "never":
        raise ValueError(f"{run} already contains a run, at step {start.step}: choose a new folder")
    if names := conflicts(start.settings):
        raise ValueError(
            f"{run} was started with other settings ({', '.join(names)}): "
            "use the same settings to resume, or choose a new folder"
        )
    if start.data_fingerprint != data_fingerprint:
        raise ValueError(f"{run} was started with other data: choose a new folder")
    return start
