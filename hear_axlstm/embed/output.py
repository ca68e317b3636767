"""Output of `axlstm embed`: a file or folder, and the files that accompany it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hear_axlstm.audio.listing import REQUEST, STAMP
from hear_axlstm.audio.skipped import REPORT_NAME, is_report
from hear_axlstm.data.shards import Shard, Summary, is_shard_file
from hear_axlstm.embed.writers import FORMATS, Format, Widths, read_index, write_folder
from hear_axlstm.files import (
    LOCK_NAME,
    naming_full_disk,
    replaced_name,
    replacing,
    write_text,
)

JOINED = "joined"
SHOWN = 60  # characters of a value in a message


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
        if self.is_folder:
            return
        if self._suffix not in FORMATS:
            raise OutputError(
                f"{self.path}: choose {', '.join(FORMATS)}, or a folder's name without a dot"
            )
        if not self._format.holds(self.fields):
            others = ", ".join(suffix for suffix, f in FORMATS.items() if f.holds(self.fields))
            held = " and ".join(self._format.fields)
            raise OutputError(f"{self.path} can hold only {held}: choose {others} or a folder")
        if self.path.is_dir():
            raise OutputError(f"{self.path} is a folder: choose another name")
        self._format.check()

    @property
    def is_folder(self) -> bool:
        """Whether each clip has its own files."""
        return not self.path.suffix

    @property
    def _suffix(self) -> str:
        return self.path.suffix.lower()

    @property
    def _format(self) -> Format:
        return FORMATS[self._suffix]

    @property
    def stamp(self) -> Path:
        """File that records what the embeddings were made from, written last."""
        return self._beside(STAMP)

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
        if not self.path.exists():
            return None
        made = _read_json(self.stamp, "fingerprint")
        if made is not None or self.read_request() is not None or self._is_new_folder():
            return made
        raise OutputError(
            f"{self.path} exists and was not made by axlstm embed: choose another name"
        )

    def read_request(self) -> dict[str, Any] | None:
        """Read the request that the parts of an interrupted run belong to; None without them."""
        return _read_json(self.parts / REQUEST, "weights")

    def _is_new_folder(self) -> bool:
        """Whether the output is a folder without embeddings or files of others."""
        if not self.path.is_dir():
            return False
        names = set(os.listdir(self.path)) - {self.parts.name}
        return names <= {REPORT_NAME} and (not names or is_report(self.report))

    def check_parts(self) -> None:
        """Raise if there are other files in place of the parts, which are removed at the end.

        Raises:
            OutputError: naming one of them.
        """
        if not os.path.lexists(self.parts) or self.read_request() is not None:
            return
        names = os.listdir(self.parts) if self.parts.is_dir() else [self.parts.name]
        if others := [name for name in names if replaced_name(name) not in (LOCK_NAME, REQUEST)]:
            raise OutputError(
                f"{self.parts} was not made by axlstm embed and contains other files, e.g. "
                f"{others[0]}: choose another output, or rename that folder"
            )

    def remove_parts(self) -> None:
        """Remove the files of this run from the parts, while they are locked.

        The request goes last but for the lock: without it, the others would seem to be the user's.
        """
        shutil.rmtree(self.parts / JOINED, ignore_errors=True)
        own = [name for name in os.listdir(self.parts) if _is_part(name, self.fields)]
        for name in (*sorted(own, key=lambda name: name.startswith(REQUEST)), LOCK_NAME):
            with suppress(OSError):  # Windows removes the lock itself
                (self.parts / name).unlink()

    def check_request(self, made: Mapping[str, Any] | None, request: Mapping[str, Any]) -> None:
        """Raise if the output, described by its stamp, or its parts belong to another request.

        Raises:
            OutputError: naming what differs.
        """
        path, before = self.path, (made or {}).get("request")
        if before is None and (of_parts := self.read_request()) is not None:
            path, before = self.parts, of_parts
        plain = json.loads(json.dumps(request, default=str))
        if before is not None and before != plain:
            then, now = _settings(before), _settings(plain)
            names = [name for name, value in now.items() if then.get(name) != value]
            if any(name in plain["model"] for name in names):
                names = [name for name in names if name != "weights"]  # those of another model
            changes = ", ".join(_change(name, then.get(name), now[name]) for name in names)
            raise OutputError(
                f"{path} was made with other settings: {changes}. Choose another output, or "
                f"delete {path}"
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
            paths = [self.path, *map(self._beside, self._format.companions)]
        else:
            names = read_index(self.path)
            paths = [self.path / field / name for field in self.fields for name in names]
        return sum(path.stat().st_size for path in paths if path.exists())

    def write(self, shards: Sequence[Shard], widths: Widths) -> None:
        """Join the shards. Files are replaced atomically."""
        with naming_full_disk(self.path):
            if self.is_folder:
                write_folder(self.path, self.parts / JOINED, shards, widths)
                return
            with replacing(self.path) as partial:
                self._format.write(partial, shards, widths)
            for name, write in self._format.companions.items():
                with replacing(self._beside(name)) as partial:
                    write(partial, shards)


def _read_json(path: Path, key: str) -> dict[str, Any] | None:
    """Read a JSON object with this key; None if the file is missing or holds something else."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) and key in found else None


def _is_part(name: str, fields: Sequence[str]) -> bool:
    """Whether a file in the parts was written by a run with these fields."""
    name = replaced_name(name)
    return name in (REQUEST, REPORT_NAME) or is_shard_file(name, fields)


def _settings(request: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a request, with those of its model among them."""
    settings = dict(request)
    return settings | settings.pop("model", {})


def _change(name: str, before: object, now: object) -> str:
    values = f"{before!r}, now {now!r}"
    return f"{name} ({values})" if len(values) <= 2 * SHOWN and name != "weights" else name
