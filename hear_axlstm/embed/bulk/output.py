"""Where embeddings go: .npy, .npz or .parquet, or a folder of one .npy a clip.

Parts are joined by copying, one clip or file at a time, so that memory does not grow with them.

Shapes: N clips, J time steps, D' embedding size.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from hear_axlstm.audio.sources import CSV
from hear_axlstm.embed.bulk import parquet
from hear_axlstm.embed.bulk.parts import Part
from hear_axlstm.files import replacing

FORMATS = (".npy", ".npz", ".parquet")


class OutputError(ValueError):
    """Embeddings can't be written there; the message names the remedy."""


@dataclass(frozen=True)
class Output:
    """Where the embeddings go, and what lies beside them.

    Raises:
        OutputError: if the form can't hold that kind, or lacks its library.
    """

    path: Path
    fields: tuple[str, ...]

    def __post_init__(self) -> None:
        suffix = self.path.suffix.lower()
        if suffix and suffix not in FORMATS:
            raise OutputError(f"{self.path}: choose {', '.join(FORMATS)}, or a folder's name")
        if suffix == ".npy" and self.fields != ("scene",):
            raise OutputError(f"{self.path} holds scenes only: choose .npz, .parquet or a folder")
        if suffix == ".parquet":
            parquet.library()

    @property
    def is_folder(self) -> bool:
        """Whether each clip has files of its own."""
        return not self.path.suffix

    @property
    def stamp(self) -> Path:
        """Written last: what the embeddings were made from."""
        return self._beside("embed.json")

    @property
    def report(self) -> Path:
        """The clips that gave none, and why."""
        return self._beside("report.csv")

    @property
    def parts(self) -> Path:
        """The folder of what is not joined yet."""
        return self._beside("parts")

    def _beside(self, name: str) -> Path:
        return self.path / name if self.is_folder else Path(f"{self.path}.{name}")

    def read_stamp(self) -> dict[str, Any] | None:
        """What was written there before, None if nothing or not all of it.

        Raises:
            OutputError: if something else lies there.
        """
        try:
            return json.loads(self.stamp.read_text()) if self.path.exists() else None
        except ValueError:
            return None
        except (FileNotFoundError, NotADirectoryError):
            pass
        if self.parts.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return None
        raise OutputError(f"{self.path} holds something else: choose another name, or delete it")

    def write(self, parts: Sequence[Part], size: int) -> None:
        """Join the parts; `size` is D'. Files are replaced when whole."""
        if self.is_folder:
            _write_folder(self.path, self.parts / "joined", parts, size)
            return
        write = {".npy": _write_npy, ".npz": _write_npz, ".parquet": parquet.write}
        with replacing(self.path) as partial:
            write[self.path.suffix.lower()](partial, parts, size)
        if self.path.suffix.lower() == ".npy":
            with replacing(self._beside("ids.txt")) as partial:
                _write_ids(partial, parts)


def _write_npy(path: Path, parts: Sequence[Part], size: int) -> None:
    with open(path, "wb") as file:
        _write_field(file, "scene", parts, size)


def _write_ids(path: Path, parts: Sequence[Part]) -> None:
    """One a line, as many as rows: a line break inside an id becomes a space."""
    with open(path, "w", encoding="utf-8", **CSV) as file:
        file.writelines(f"{' '.join(clip_id.splitlines())}\n" for clip_id in _ids(parts))


def _write_npz(path: Path, parts: Sequence[Part], size: int) -> None:
    with zipfile.ZipFile(path, "w") as archive:

        def member(name: str) -> IO[bytes]:
            return archive.open(f"{name}.npy", "w", force_zip64=True)

        clips, width = 0, 1
        for clip_id in _ids(parts):
            clips, width = clips + 1, max(width, len(clip_id))
        with member("ids") as file:
            _write_header(file, f"<U{width}", (clips,))
            for part in parts:
                file.write(np.array(list(_ids([part])), f"<U{width}").tobytes())
        for field in parts[0].fields:
            with member(field) as file:
                _write_field(file, field, parts, size)
        if "steps" in parts[0].fields:
            with member("offsets") as file:  # clip i has the steps offsets[i] to offsets[i + 1]
                _write_header(file, "<i8", (clips + 1,))
                end = np.zeros(1, "<i8")
                file.write(end.tobytes())
                for part in parts:
                    ends = end + np.cumsum(_rows(part, "steps"), dtype="<i8")
                    file.write(ends.tobytes())
                    end = ends[-1:] if len(ends) else end


def _write_folder(folder: Path, joined: Path, parts: Sequence[Part], size: int) -> None:
    """FIELD/ID.npy for each clip, and index.csv; what an earlier run has left there goes."""
    shutil.rmtree(joined, ignore_errors=True)
    joined.mkdir()
    with open(joined / "index.csv", "w", encoding="utf-8", **CSV) as file:
        index = csv.writer(file)
        index.writerow(("id", "file", "samples"))
        for part in parts:
            for clip in part.clips(size):
                name = _file_name(clip.id, joined / part.fields[0])
                index.writerow((clip.id, name, clip.samples))
                for field, array in clip.fields.items():
                    target = joined / field / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    np.save(target, array[0] if field == "scene" else array)
    for path in joined.iterdir():
        if (folder / path.name).is_dir():
            shutil.rmtree(folder / path.name)
        os.replace(path, folder / path.name)


def _file_name(clip_id: str, taken: Path) -> str:
    """A relative path for a clip, inside the folder whatever its id, and not taken yet."""
    pieces = [piece for piece in clip_id.split("/") if piece not in ("", ".")]
    stem = "/".join("%2E%2E" if piece == ".." else piece for piece in pieces)
    name, copies = f"{stem}.npy", 1
    while (taken / name).exists():
        copies += 1
        name = f"{stem}~{copies}.npy"
    return name


def _write_field(file: IO[bytes], field: str, parts: Sequence[Part], size: int) -> None:
    """All clips' numbers of one field as one .npy array, `[rows, D']` or `[rows]`."""
    rows = sum(sum(_rows(part, field)) for part in parts)
    _write_header(file, "<f4", (rows,) if field == "times_ms" else (rows, size))
    for part in parts:
        with open(part.data(field), "rb") as data:
            shutil.copyfileobj(data, file, 1 << 20)


def _write_header(file: IO[bytes], dtype: str, shape: tuple[int, ...]) -> None:
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, header)


def _rows(part: Part, field: str) -> list[int]:
    at = part.fields.index(field)
    return [rows[at] for _, _, rows in part.read()["clips"]]


def _ids(parts: Sequence[Part]) -> Iterator[str]:
    return (clip_id for part in parts for clip_id, _, _ in part.read()["clips"])
