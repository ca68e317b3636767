"""Where a run starts: alone in its folder, at the beginning or at its last checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from hear_axlstm import checkpoints
from hear_axlstm.data.corpus import Corpus
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.training.checkpoint_manager import list_checkpoints, load_latest
from hear_axlstm.training.checkpoints import Checkpoint
from hear_axlstm.training.distributed import DistContext

Resume = Literal["auto", "never"]

LOCK = ".lock"
CHECKPOINTS = "checkpoints"


def validate(config: PretrainConfig, corpus: Corpus, run: Path, context: DistContext) -> None:
    """Make sure that the run can start, before anything is written.

    Raises:
        ValueError: if data and settings don't fit together, or ranks see different data.
        FileNotFoundError: if there are no weights to start from.
    """
    if corpus.mel != config.model.mel:
        raise ValueError(
            f"{corpus.folder} was packed with {corpus.mel}, the model wants {config.model.mel}: "
            "pack the audio again with the model's settings"
        )
    if context.broadcast(corpus.fingerprint) != corpus.fingerprint:
        raise ValueError(f"{corpus.folder} differs from rank 0's: give all machines the same pack")
    if config.init is not None and not list_checkpoints(run / CHECKPOINTS):
        checkpoints.locate(config.init)


@contextmanager
def lock_dir(run: Path, context: DistContext) -> Iterator[None]:
    """Hold a run's folder against other trainings; the system lets go when the process ends.

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
            f"another training is at work in {run}: wait for it, stop it, or choose a new folder"
        ) from None
    with lock:
        yield


def find_resume(
    config: PretrainConfig, corpus: Corpus, run: Path, resume: Resume
) -> Checkpoint | None:
    """The checkpoint to go on from, once it is sure that it belongs to these settings and data.

    Raises:
        ValueError: if `run` holds another run, or one that may not be resumed.
    """
    start = load_latest(run / CHECKPOINTS)
    if start is None:
        return None
    if resume == "never":
        raise ValueError(f"{run} already holds a run, at step {start.step}: choose a new folder")
    if conflicts := config.conflicts(start.config):
        raise ValueError(
            f"{run} was started with other settings ({', '.join(conflicts)}): "
            "use them again to resume, or choose a new folder"
        )
    if start.corpus != corpus.fingerprint:
        raise ValueError(
            f"{run} was started on other data than {corpus.folder}: choose a new folder"
        )
    return start
