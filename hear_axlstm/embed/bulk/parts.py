"""Parts: embeddings of some clips on disk, as they are computed, before all are joined.

A part is a few files of raw float32 numbers and a sidecar, which is written last and carries the
fingerprint of what the part was made from: it is the stamp that says that the part is done.

Shapes: J time steps, D' embedding size.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hear_axlstm.audio.clips import Skipped
from hear_axlstm.data.shards import write_text

FIELDS = {"scene": ("scene",), "timestamp": ("steps", "times_ms")}
FIELDS["both"] = FIELDS["scene"] + FIELDS["timestamp"]


@dataclass(frozen=True)
class Embedded:
    """One clip's embeddings, by field: scene ``[1, D']``, steps ``[J, D']``, times_ms ``[J]``."""

    id: str
    samples: int
    fields: dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Part:
    """One unit of work."""

    folder: Path
    number: int
    fingerprint: str
    fields: tuple[str, ...]

    @property
    def sidecar(self) -> Path:
        """What is in it, and what it was made from."""
        return self.folder / f"part-{self.number:05d}.json"

    def data(self, field: str) -> Path:
        """The file of one field, the clips' numbers one after the other."""
        return self.sidecar.with_suffix(f".{field}")

    def is_done(self) -> bool:
        """Whether it was already made, from the same files, and is all there."""
        try:
            made = self.read()
            sizes = [self.data(field).stat().st_size for field in self.fields]
            return made["fingerprint"] == self.fingerprint and made["bytes"] == sizes
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def read(self) -> dict[str, Any]:
        """The sidecar: bytes of each field; ids, samples and rows (of each field) of each clip."""
        return json.loads(self.sidecar.read_text())

    def write(self, found: Iterable[Embedded | Skipped]) -> None:
        """Write clips as they come, then the sidecar.

        If something failed that may work the next time, the sidecar's fingerprint is left empty.
        """
        clips: list[tuple[str, int, list[int]]] = []
        skipped: list[Skipped] = []
        self.sidecar.unlink(missing_ok=True)
        with ExitStack() as stack:
            files = {f: stack.enter_context(open(self.data(f), "wb")) for f in self.fields}
            for item in found:
                if isinstance(item, Skipped):
                    skipped.append(item)
                    continue
                rows = [len(item.fields[field]) for field in self.fields]
                clips.append((item.id, item.samples, rows))
                for field, file in files.items():
                    file.write(np.ascontiguousarray(item.fields[field], "<f4").data)
            sizes = [file.tell() for file in files.values()]
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
        made = {
            "fingerprint": "" if any(skip.passing for skip in skipped) else self.fingerprint,
            "bytes": sizes,
            "clips": clips,
            "skipped": [[skip.id, skip.reason] for skip in skipped],
        }
        write_text(self.sidecar, json.dumps(made))

    def clips(self, size: int) -> Iterator[Embedded]:
        """The clips again, one at a time; `size` is D'."""
        with ExitStack() as stack:
            files = {f: stack.enter_context(open(self.data(f), "rb")) for f in self.fields}
            for clip_id, samples, rows in self.read()["clips"]:
                arrays = {}
                for (field, file), count in zip(files.items(), rows, strict=True):
                    shape = (count,) if field == "times_ms" else (count, size)
                    content = file.read(4 * int(np.prod(shape)))
                    arrays[field] = np.frombuffer(content, "<f4").reshape(shape)
                yield Embedded(clip_id, samples, arrays)
