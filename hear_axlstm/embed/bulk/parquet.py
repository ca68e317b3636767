"""Embeddings as a Parquet file, by pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hear_axlstm.embed.bulk.parts import Embedded, Part

GROUP_BYTES = 1 << 26  # of embeddings in a row group


def write(path: Path, parts: Sequence[Part], size: int) -> None:
    """One row a clip: its id; the scene as a list; times_ms and steps as lists, one item a step."""
    pyarrow, parquet = library()
    fields = parts[0].fields
    vector = pyarrow.list_(pyarrow.float32(), size)
    times = pyarrow.list_(pyarrow.float32())
    types = {"scene": vector, "steps": pyarrow.list_(vector), "times_ms": times}
    schema = pyarrow.schema([("id", pyarrow.string()), *((f, types[f]) for f in fields)])
    with parquet.ParquetWriter(path, schema) as writer:
        for clips in _groups(parts, size):
            columns = [pyarrow.array([_utf8(clip.id) for clip in clips])]
            columns += [_column(clips, field, size) for field in fields]
            writer.write_table(pyarrow.table(columns, schema=schema))


def library() -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet.

    Raises:
        ModuleNotFoundError: if they are not installed; the message says how.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Parquet needs pyarrow: pip install 'hear_axlstm[parquet]'"
        ) from error
    return pyarrow, pyarrow.parquet


def _column(clips: Sequence[Embedded], field: str, size: int) -> Any:
    """The numbers of several clips as one Arrow array, without a Python object for each."""
    pyarrow, _ = library()
    numbers = pyarrow.array(np.concatenate([clip.fields[field].ravel() for clip in clips]))
    if field != "times_ms":
        numbers = pyarrow.FixedSizeListArray.from_arrays(numbers, size)
    if field == "scene":
        return numbers
    ends = np.cumsum([0, *(len(clip.fields[field]) for clip in clips)])
    return pyarrow.ListArray.from_arrays(pyarrow.array(ends, pyarrow.int32()), numbers)


def _groups(parts: Sequence[Part], size: int) -> Iterator[list[Embedded]]:
    group: list[Embedded] = []
    held = 0
    for part in parts:
        for clip in part.clips(size):
            group.append(clip)
            held += sum(array.nbytes for array in clip.fields.values())
            if held > GROUP_BYTES:
                yield group
                group, held = [], 0
    if group:
        yield group


def _utf8(clip_id: str) -> str:
    """A file's name that is no UTF-8 loses the odd bytes: Parquet takes no other text."""
    return clip_id.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
