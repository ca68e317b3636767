"""Output of embeddings: a .npy or .parquet file, or a folder with one .npy per clip.

Shards are joined by copying, one clip or file at a time, so that memory does not grow with them.
Shapes: N clips, J time steps, D' embedding size.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hear_axlstm.ahead import groups
from hear_axlstm.audio.skipped import REPORT_NAME
from hear_axlstm.audio.tables import OPEN_CSV
from hear_axlstm.data.shards import Record, Shard, Summary
from hear_axlstm.files import naming_full_disk, replacing, write_text

GROUP_BYTES = 1 << 26  # embeddings in a row group of a Parquet file
NAME_BYTES = 240  # longest file name; file systems allow 255, including the suffix
REQUEST = "request.json"
SHOWN = 60  # characters of a value in a message
PATH_BYTES = 2_000  # longest relative path
WINDOWS = os.name == "nt"


class OutputError(ValueError):
    """Raised for an unusable output; the message names the remedy."""


@dataclass(frozen=True)
class Output:
    """The output of a run and the files that accompany it.

    Raises:
        OutputError: if the format can't store these fields.
        ModuleNotFoundError: if the format's library is not installed.
    """

    path: Path
    fields: tuple[str, ...]

    def __post_init__(self) -> None:
        suffix = self.path.suffix.lower()
        if suffix and suffix not in WRITERS:
            raise OutputError(f"{self.path}: choose {', '.join(WRITERS)}, or a folder's name")
        if suffix == ".npy" and self.fields != ("scene",):
            raise OutputError(f"{self.path} can hold scenes only: choose .parquet or a folder")
        if suffix and self.path.is_dir():
            raise OutputError(f"{self.path} is a folder: choose another name, or delete it")
        if suffix == ".parquet":
            parquet_library()

    @property
    def is_folder(self) -> bool:
        """Whether each clip has its own files."""
        return not self.path.suffix

    @property
    def stamp(self) -> Path:
        """File that records what the embeddings were made from, written last."""
        return self._beside("embed.json")

    @property
    def report(self) -> Path:
        """File that lists the clips that were left out, and why."""
        return self._beside(REPORT_NAME)

    @property
    def parts(self) -> Path:
        """Folder of the shards that have not been joined yet."""
        return self._beside("parts")

    def _beside(self, name: str) -> Path:
        return self.path / name if self.is_folder else Path(f"{self.path}.{name}")

    def read_stamp(self) -> dict[str, Any] | None:
        """Read the stamp of an earlier run; None if there is none or its output is incomplete.

        Raises:
            OutputError: if there are other files in its place.
        """
        try:
            return json.loads(self.stamp.read_text("utf-8")) if self.path.exists() else None
        except ValueError:
            return None
        except (FileNotFoundError, NotADirectoryError):
            pass
        is_empty = self.path.is_dir() and set(os.listdir(self.path)) <= {REPORT_NAME}
        if self.parts.exists() or is_empty:
            return None
        raise OutputError(
            f"{self.path} exists and was not made by axlstm embed: choose another name, or delete "
            "it"
        )

    def check_request(self, made: Mapping[str, Any] | None, request: Mapping[str, Any]) -> None:
        """Raise if the output, described by its stamp, or its parts belong to another request.

        Raises:
            OutputError: naming what differs.
        """
        path, before = self.path, (made or {}).get("request")
        if before is None and (self.parts / REQUEST).exists():
            path, before = self.parts, json.loads((self.parts / REQUEST).read_text("utf-8"))
        plain = json.loads(json.dumps(request, default=str))
        if before is not None and before != plain:
            names = [name for name, value in plain.items() if before.get(name) != value]
            names = [name for name in names if name != "weights" or "model" not in names]
            changes = ", ".join(_change(name, before.get(name), plain[name]) for name in names)
            raise OutputError(
                f"{path} was made with another {changes}: choose another output, or delete it"
            )

    def begin(self, request: Mapping[str, Any]) -> None:
        """Record the request that the parts belong to."""
        write_text(self.parts / REQUEST, json.dumps(request, default=str))

    def keep_report(self, found: Summary) -> None:
        """Copy the list of clips that were left out from the parts, if there are any."""
        self.report.unlink(missing_ok=True)
        if found.kinds:
            shutil.copyfile(self.parts / REPORT_NAME, self.report)

    def size(self) -> int:
        """Total size of the embeddings in bytes, to detect a truncated or deleted output."""
        if not self.is_folder:
            return sum(p.stat().st_size for p in (self.path, self._ids) if p.exists())
        found = (self.path / field for field in self.fields)
        files = (Path(top, name) for field in found for top, _, names in os.walk(field)
                 for name in names)  # fmt: skip
        return sum(file.stat().st_size for file in files)

    @property
    def _ids(self) -> Path:
        return self._beside("ids.txt")

    def write(self, shards: Sequence[Shard], size: int) -> None:
        """Join the shards; `size` is D'. Files are replaced atomically."""
        with naming_full_disk(self.path):
            if self.is_folder:
                _write_folder(self.path, self.parts / "joined", shards, size)
                return
            with replacing(self.path) as partial:
                WRITERS[self.path.suffix.lower()](partial, shards, size)
            if self.path.suffix.lower() == ".npy":
                with replacing(self._ids) as partial:
                    _write_ids(partial, shards)


def _change(name: str, before: object, now: object) -> str:
    values = f"{before!r}, now {now!r}"
    return f"{name} ({values})" if len(values) <= 2 * SHOWN and name != "weights" else name


def read_embedded(shards: Sequence[Shard], size: int) -> Iterator[Record]:
    """Yield the clips of finished shards, one at a time.

    Their arrays are scene ``[1, D']``, steps ``[J, D']`` and times_ms ``[J]``; `size` is D'.
    """
    for shard in shards:
        clips = shard.read()["clips"]
        with ExitStack() as stack:
            files = {f: stack.enter_context(open(shard.data(f), "rb")) for f in shard.fields}
            for index, clip_id in enumerate(clips["id"]):
                arrays = {}
                for field, file in files.items():
                    rows = clips[f"{field} rows"][index]
                    shape = (rows,) if field == "times_ms" else (rows, size)
                    content = file.read(4 * int(np.prod(shape)))
                    arrays[field] = np.frombuffer(content, "<f4").reshape(shape)
                yield Record(clip_id, arrays, {"samples": clips["samples"][index]})


def _write_npy(path: Path, shards: Sequence[Shard], size: int) -> None:
    """Write all clips' scenes as one array ``[N, D']``."""
    clips = sum(len(shard.read()["clips"]["id"]) for shard in shards)
    header = {"descr": "<f4", "fortran_order": False, "shape": (clips, size)}
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


def _write_folder(folder: Path, joined: Path, shards: Sequence[Shard], size: int) -> None:
    """Write FIELD/ID.npy for each clip, and index.csv; replaces files of an earlier run."""
    shutil.rmtree(joined, ignore_errors=True)
    joined.mkdir()
    with open(joined / "index.csv", "w", **OPEN_CSV) as file:
        index = csv.writer(file)
        index.writerow(("id", "file", "samples"))
        for clip in read_embedded(shards, size):
            index.writerow((clip.id, _write_clip(joined, clip), clip.facts["samples"]))
    for path in joined.iterdir():
        if (folder / path.name).is_dir():
            shutil.rmtree(folder / path.name)
        os.replace(path, folder / path.name)


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


def _write_parquet(path: Path, shards: Sequence[Shard], size: int) -> None:
    """Write one row per clip: id, scene as a list, times_ms and steps as lists over steps."""
    pyarrow, parquet = parquet_library()
    fields = shards[0].fields
    vector = pyarrow.list_(pyarrow.float32(), size)
    times = pyarrow.list_(pyarrow.float32())
    types = {"scene": vector, "steps": pyarrow.list_(vector), "times_ms": times}
    schema = pyarrow.schema([("id", pyarrow.string()), *((f, types[f]) for f in fields)])
    with parquet.ParquetWriter(path, schema) as writer:
        for clips in groups(read_embedded(shards, size), _nbytes, GROUP_BYTES):
            columns = [pyarrow.array([_utf8(clip.id) for clip in clips])]
            columns += [_column(clips, field, size) for field in fields]
            writer.write_table(pyarrow.table(columns, schema=schema))


def _column(clips: Sequence[Record], field: str, size: int) -> Any:
    """Convert the values of several clips to one Arrow array, without a Python object for each."""
    pyarrow, _ = parquet_library()
    numbers = pyarrow.array(np.concatenate([clip.arrays[field].ravel() for clip in clips]))
    if field != "times_ms":
        numbers = pyarrow.FixedSizeListArray.from_arrays(numbers, size)
    if field == "scene":
        return numbers
    ends = np.cumsum([0, *(len(clip.arrays[field]) for clip in clips)])
    return pyarrow.ListArray.from_arrays(pyarrow.array(ends, pyarrow.int32()), numbers)


def _nbytes(clip: Record) -> int:
    return sum(array.nbytes for array in clip.arrays.values())


def _utf8(clip_id: str) -> str:
    """The id as UTF-8, as Parquet requires; invalid bytes become a replacement character."""
    return clip_id.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


WRITERS = {".npy": _write_npy, ".parquet": _write_parquet}
"""Functions that join shards in one file, by file extension."""
