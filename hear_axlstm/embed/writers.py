"""Formats of embeddings: a .npy or .parquet file, or a folder with one .npy per clip.

Shards are joined by copying, one clip or file at a time, so that memory does not grow with them.
Shapes: N clips, J time steps, D' embedding size.
"""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from hear_axlstm.ahead import groups
from hear_axlstm.audio.tables import OPEN_CSV
from hear_axlstm.data.shards import Record, Shard
from hear_axlstm.files import replacing

INDEX = "index.csv"
GROUP_BYTES = 1 << 26  # embeddings in a row group of a Parquet file
NAME_BYTES = 240  # longest file name; file systems allow 255, including the suffix
PATH_BYTES = 2_000  # longest relative path
WINDOWS = os.name == "nt"

Widths: TypeAlias = Mapping[str, int]
"""Width D' of the rows of "scene" and of "steps"."""


def read_embedded(shards: Sequence[Shard], widths: Widths) -> Iterator[Record]:
    """Yield the clips of finished shards, one at a time.

    Their arrays are scene ``[1, D']``, steps ``[J, D']`` and times_ms ``[J]``.
    """
    for shard in shards:
        clips = shard.read()["clips"]
        with ExitStack() as stack:
            files = {f: stack.enter_context(open(shard.data(f), "rb")) for f in shard.fields}
            for index, clip_id in enumerate(clips["id"]):
                arrays = {}
                for field, file in files.items():
                    rows = clips[f"{field} rows"][index]
                    shape = (rows, widths[field]) if field in widths else (rows,)
                    content = file.read(4 * int(np.prod(shape)))
                    arrays[field] = np.frombuffer(content, "<f4").reshape(shape)
                yield Record(clip_id, arrays, {"samples": clips["samples"][index]})


def _write_npy(path: Path, shards: Sequence[Shard], widths: Widths) -> None:
    """Write all clips' scenes as one array ``[N, D']``."""
    clips = sum(len(shard.read()["clips"]["id"]) for shard in shards)
    header = {"descr": "<f4", "fortran_order": False, "shape": (clips, widths["scene"])}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_2_0(file, header)
        for shard in shards:
            with open(shard.data("scene"), "rb") as data:
                shutil.copyfileobj(data, file, 1 << 20)


def _write_ids(path: Path, shards: Sequence[Shard]) -> None:
    """Write one id per line for each row; a line break inside an id becomes a space."""
    with open(path, "w", **OPEN_CSV) as file:
        for shard in shards:
            ids = shard.read()["clips"]["id"]
            file.writelines(f"{' '.join(clip_id.splitlines())}\n" for clip_id in ids)


def write_folder(folder: Path, joined: Path, shards: Sequence[Shard], widths: Widths) -> None:
    """Write FIELD/ID.npy for each clip, and index.csv; replaces files of an earlier run."""
    shutil.rmtree(joined, ignore_errors=True)
    joined.mkdir()
    clips = read_embedded(shards, widths)
    _write_index(joined, ((c.id, _write_clip(joined, c), c.facts["samples"]) for c in clips))
    before = read_index(folder)
    names = dict.fromkeys([*before, *read_index(joined)])
    _write_index(folder, (("", name, "") for name in names))  # in case of an interruption
    for path in sorted(joined.iterdir(), key=lambda path: path.name == INDEX):  # the index last
        if (folder / path.name).is_dir():
            _replace_embeddings(folder / path.name, path, before)
        else:
            os.replace(path, folder / path.name)


def _write_index(folder: Path, rows: Iterable[tuple[str, str, object]]) -> None:
    with replacing(folder / INDEX) as partial, open(partial, "w", **OPEN_CSV) as file:
        index = csv.writer(file)
        index.writerow(("id", "file", "samples"))
        index.writerows(rows)


def read_index(folder: Path) -> list[str]:
    """Read the files that index.csv lists, relative to the folder of each field."""
    try:
        with open(folder / INDEX, **OPEN_CSV) as file:
            names = [row.get("file") or "" for row in csv.DictReader(file)]
    except (FileNotFoundError, csv.Error):
        return []
    return [name for name in names if name.endswith(".npy") and _is_inside(name)]


def _is_inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _replace_embeddings(folder: Path, new: Path, before: Sequence[str]) -> None:
    """Replace the embeddings in a folder of an earlier run; other files, such as notes, stay."""
    for name in before:
        (folder / name).unlink(missing_ok=True)
    for top, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # it holds other files
            os.rmdir(top)
    for top, _, names in os.walk(new):
        target = folder / Path(top).relative_to(new)
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            os.replace(os.path.join(top, name), target / name)


def _write_clip(folder: Path, clip: Record) -> str:
    """Write one file per field, and return the file name."""
    first = folder / next(iter(clip.arrays))
    name = _file_name(clip.id, first)
    try:
        (first / name).parent.mkdir(parents=True, exist_ok=True)
    except OSError:  # there is a folder of that name, or the file system rejects the name
        name = f"{_short_hash(clip.id)}.npy"
    for field, array in clip.arrays.items():
        target = folder / field / name
        target.parent.mkdir(parents=True, exist_ok=True)
        np.save(target, array[0] if field == "scene" else array)
    return name


def _file_name(clip_id: str, taken: Path) -> str:
    """A relative path for a clip, always inside the folder and not in use yet."""
    if WINDOWS:  # the id may be a path as typed
        clip_id = clip_id.replace("\\", "/").replace(":", "")
    pieces = [_shortened(piece) for piece in clip_id.split("/") if piece not in ("", ".")]
    stem = "/".join("%2E%2E" if piece == ".." else piece for piece in pieces)
    if len(os.fsencode(stem)) > PATH_BYTES:
        stem = _short_hash(clip_id)
    name, copies = f"{stem}.npy", 1
    while os.path.lexists(taken / name):
        copies += 1
        name = f"{stem}~{copies}.npy"
    return name


def _shortened(piece: str) -> str:
    """The name, or its beginning and a hash if it is too long for a file."""
    if len(os.fsencode(piece)) <= NAME_BYTES:
        return piece
    kept = piece
    while len(os.fsencode(kept)) > NAME_BYTES - 17:
        kept = kept[:-1]
    return f"{kept}~{_short_hash(piece)}"


def _short_hash(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]


def parquet_library() -> tuple[Any, Any]:
    """Import the modules pyarrow and pyarrow.parquet.

    Raises:
        ModuleNotFoundError: if they are not installed; the message says how to install them.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Parquet needs pyarrow: run pip install '.[parquet]' in the clone"
        ) from error
    return pyarrow, pyarrow.parquet


def _write_parquet(path: Path, shards: Sequence[Shard], widths: Widths) -> None:
    """Write one row per clip: id, scene as a list, times_ms and steps as lists over steps."""
    pyarrow, parquet = parquet_library()
    fields = shards[0].fields
    vectors = {name: pyarrow.list_(pyarrow.float32(), width) for name, width in widths.items()}
    lists = {"steps": pyarrow.list_(vectors["steps"]), "times_ms": pyarrow.list_(pyarrow.float32())}
    types = {**vectors, **lists}
    schema = pyarrow.schema([("id", pyarrow.string()), *((f, types[f]) for f in fields)])
    with parquet.ParquetWriter(path, schema) as writer:
        for clips in groups(read_embedded(shards, widths), _nbytes, GROUP_BYTES):
            columns = [pyarrow.array([_utf8(clip.id) for clip in clips])]
            columns += [_column(clips, field, widths) for field in fields]
            writer.write_table(pyarrow.table(columns, schema=schema))


def _column(clips: Sequence[Record], field: str, widths: Widths) -> Any:
    """Convert the values of several clips to one Arrow array, without a Python object for each."""
    pyarrow, _ = parquet_library()
    numbers = pyarrow.array(np.concatenate([clip.arrays[field].ravel() for clip in clips]))
    if field in widths:
        numbers = pyarrow.FixedSizeListArray.from_arrays(numbers, widths[field])
    if field == "scene":
        return numbers
    ends = np.cumsum([0, *(len(clip.arrays[field]) for clip in clips)])
    return pyarrow.ListArray.from_arrays(pyarrow.array(ends, pyarrow.int32()), numbers)


def _nbytes(clip: Record) -> int:
    return sum(array.nbytes for array in clip.arrays.values())


def _utf8(clip_id: str) -> str:
    """The id as UTF-8, as Parquet requires; invalid bytes become a replacement character."""
    return clip_id.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class Format(NamedTuple):
    """A file that holds the embeddings of all clips."""

    write: Callable[[Path, Sequence[Shard], Widths], None]
    """Joins shards."""
    fields: tuple[str, ...]
    """Fields that it can hold."""
    companions: Mapping[str, Callable[[Path, Sequence[Shard]], None]] = {}
    """Functions that write the files beside it, by the names' endings."""
    check: Callable[[], object] = lambda: None
    """Raises ModuleNotFoundError if a library is missing."""

    def holds(self, fields: Sequence[str]) -> bool:
        """Whether it can hold all of the fields."""
        return set(fields) <= set(self.fields)


FORMATS = {
    ".npy": Format(_write_npy, ("scene",), {"ids.txt": _write_ids}),
    ".parquet": Format(_write_parquet, ("scene", "steps", "times_ms"), check=parquet_library),
}
"""The formats by file extension."""
