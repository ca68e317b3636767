"""Logging of a run to log.jsonl, and optionally to TensorBoard and Weights & Biases."""

from __future__ import annotations

import json
import logging
import os
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hear_axlstm.files import write_text

log = logging.getLogger(__name__)

LOG_NAME = "log.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


class JsonLines:
    """Append-only log.jsonl; each line carries the step it describes.

    Args:
        path: the file, created if it does not exist.
        step: step that the run resumes from; None for a new run. Lines of later steps, left by an
            interrupted run, are dropped, since they will be written again; a new run keeps none.
    """

    def __init__(self, path: Path, step: int | None) -> None:
        self.path = path
        before = [] if step is None else read_log(path)
        kept = [line for line in before if line["step"] <= step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, **values: Any) -> None:
        """Append one line."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


class Sink(Protocol):
    """A destination for scalars and images in addition to log.jsonl."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write the scalars of one step."""

    def show(self, step: int, picture: NDArray[np.uint8]) -> None:
        """Show an image, RGB [height, width, 3]."""

    def close(self) -> None:
        """Flush and close."""


class RunLog:
    """log.jsonl of a run, and every other sink that is installed and enabled.

    TensorBoard is written if tensorboardX is installed (extra `train`); Weights & Biases if wandb
    is installed and WANDB_PROJECT names a project (its usual variables apply).

    Use it as a context manager, which closes the sinks.

    Args:
        run: the run's folder.
        step: step that the run resumes from, as for `JsonLines`.
        settings: JSON-ready settings of the run, for the sinks that show them.
    """

    def __init__(self, run: Path, step: int | None, settings: dict[str, Any]) -> None:
        self.lines = JsonLines(run / LOG_NAME, step)
        self.run, self.step, self.settings = run, step, settings

    @cached_property
    def sinks(self) -> list[Sink]:
        """Sinks, opened with the first line, so that repeating a finished run writes nothing."""
        found = (_tensorboard(self.run, self.step), _wandb(self.run, self.settings))
        return [sink for sink in found if sink is not None]

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        for sink in self.__dict__.pop("sinks", []):
            sink.close()

    def write(self, step: int, **values: Any) -> None:
        """Append one line, and write its scalars to the sinks."""
        self.lines.write(step=step, **values)
        for sink in self.sinks:
            sink.write(step, values)

    def show(self, step: int, picture: NDArray[np.uint8]) -> None:
        """Show an image, RGB [height, width, 3], in the sinks; log.jsonl has only scalars."""
        for sink in self.sinks:
            sink.show(step, picture)


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def show(self, step: int, picture: NDArray[np.uint8]) -> None:
        self.writer.add_image("reconstruction", picture, step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def _tensorboard(run: Path, step: int | None) -> _TensorBoard | None:
    # Not torch.utils.tensorboard, which imports TensorFlow if a module of that name is installed.
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    # What an interrupted run wrote after `step` will be repeated; a new run keeps nothing.
    first = 0 if step is None else step + 1
    return _TensorBoard(SummaryWriter(str(run / TENSORBOARD_FOLDER), purge_step=first))


class _WandB:
    def __init__(self, run: Any, image: Any) -> None:
        self.run, self.image = run, image

    def write(self, step: int, values: dict[str, float]) -> None:
        self.run.log({"step": step, **values})

    def show(self, step: int, picture: NDArray[np.uint8]) -> None:
        self.run.log({"step": step, "reconstruction": self.image(picture)})

    def close(self) -> None:
        self.run.finish()


def _wandb(run: Path, settings: dict[str, Any]) -> _WandB | None:
    if not os.environ.get("WANDB_PROJECT"):
        return None
    try:
        import wandb
    except ImportError:
        log.warning("WANDB_PROJECT is set, but wandb is not installed: pip install wandb")
        return None
    try:
        started = wandb.init(
            dir=str(run),
            id=f"{run.name}-{zlib.crc32(str(run.resolve()).encode()):08x}",  # resumes find it
            name=run.name,
            resume="allow",
            config=settings,
        )
    except Exception as error:  # wandb's own classes can't be named without importing it
        log.warning("continuing without Weights & Biases: %s", error)
        return None
    # wandb's step can't decrease, as ours does after a resume, so ours is logged as a value
    started.define_metric("*", step_metric="step")
    return _WandB(started, wandb.Image)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a log, if it exists; a line truncated by a crash is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines
