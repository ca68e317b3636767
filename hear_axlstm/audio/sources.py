"""Where the audio of a pack comes from: a folder, a manifest, or WebDataset tars.

A source lists its clips in a fixed order, without decoding them, in units that become one shard
each. Units are made when asked for and not kept: millions of clips don't have to fit in memory.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from hear_axlstm.audio.clips import Clip, Skipped, Source, Unit
from hear_axlstm.audio.io import AUDIO_SUFFIXES, OTHER_AUDIO_SUFFIXES
from hear_axlstm.data.corpus import OPEN_SHARDS, PackError

CSV: Mapping[str, Any] = {"newline": "", "errors": "surrogateescape"}
CLIPS_PER_SHARD = 256  # 10 s clips: 41 MB; more where there would be too many shards to keep open
MANIFEST_SUFFIXES = (".csv", ".tsv")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")


def open_source(audio: str | Path) -> Source:
    """The source that a path, pattern or URL means.

    Raises:
        PackError: if there is nothing of the kind.
    """
    text = str(audio)
    if text.lower().endswith(TAR_SUFFIXES) or "://" in text or text.startswith("pipe:"):
        return TarSource(text)
    if text.lower().endswith(MANIFEST_SUFFIXES):
        return ManifestSource(Path(text))
    return FolderSource(Path(text))


class Files:
    """What sources of single files have in common; `clips` and `__len__` make the difference."""

    def clips(self) -> Iterator[Clip | Skipped]:
        """All clips, in a fixed order."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def units(self, size: int | None = None) -> Iterator[Unit]:
        """All clips, `size` at a time; by default as many as a shard holds."""
        clips = self.clips()
        if size is None:
            size = CLIPS_PER_SHARD
            while len(self) > size * OPEN_SHARDS:
                size *= 2
        while members := tuple(islice(clips, size)):
            yield Unit(members, len(members), partial(_stamps, members))

    def sample(self, size: int) -> tuple[list[Clip | Skipped], int]:
        """Clips at regular distances, and how many there are in all."""
        step = max(1, len(self) // size)
        return list(islice(self.clips(), step // 2, None, step))[:size], len(self)


class FolderSource(Files):
    """Every audio file below a folder, one clip a file."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise PackError(
                f"{folder} is no folder: give a folder of audio, a .csv or .tsv manifest, or tars"
            )
        self.name = str(folder.resolve())
        suffixes = AUDIO_SUFFIXES | OTHER_AUDIO_SUFFIXES
        self._paths = sorted(
            os.path.relpath(os.path.join(parent, name), self.name).replace(os.sep, "/")
            for parent, _, names in os.walk(self.name)
            for name in names
            if os.path.splitext(name)[1].lower() in suffixes and not name.startswith(".")
        )
        if not self._paths:
            raise PackError(
                f"{folder} holds no audio files ({', '.join(sorted(AUDIO_SUFFIXES))}); "
                f"tars are given by a pattern, e.g. {folder}/{{000..127}}.tar"
            )

    def __len__(self) -> int:
        return len(self._paths)

    def clips(self) -> Iterator[Clip | Skipped]:
        """All clips, ordered by path."""
        return (Clip(path, os.path.join(self.name, path)) for path in self._paths)


class ManifestSource(Files):
    """The rows of a CSV or TSV: `path`, and optionally a span by `start` and `end` in seconds.

    Paths are relative to the manifest. `start_seconds` and `end_seconds` mean the same as `start`
    and `end`; other columns don't matter, nor do lines above the header that begin with a #.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise PackError(f"{path}: no such manifest: check the path")
        self.name = str(path.resolve())
        self._folder = os.path.dirname(self.name)
        self._rows = sum(1 for _ in self._read())
        if not self._rows:
            raise PackError(f"{path} lists no clips: add rows below the header")

    def __len__(self) -> int:
        return self._rows

    def clips(self) -> Iterator[Clip | Skipped]:
        """A clip or a complaint for each row."""
        for number, row in enumerate(self._read(), 1):
            yield _clip_of_row(row, number, self._folder)

    def _read(self) -> Iterator[dict[str, str]]:
        with open(self.name, encoding="utf-8-sig", **CSV) as file:
            header = next((line for line in file if not line.startswith("#")), "")
            delimiter = "\t" if "\t" in header else ","
            names = [name.strip().strip('"').lower() for name in header.split(delimiter)]
            names = [name.removesuffix("_seconds") for name in names]
            if "path" not in names:
                raise PackError(
                    f"{self.name} has no column `path` in its first line, but "
                    f"{', '.join(filter(None, names)) or 'nothing'}: name it, e.g. path,start,end"
                )
            try:
                for values in csv.reader(file, delimiter=delimiter, skipinitialspace=True):
                    if values:
                        yield dict(zip(names, values, strict=False))
            except csv.Error as error:
                raise PackError(f"{self.name} is no CSV ({error}): export it again") from error


class TarSource:
    """The audio files in tars, by the webdataset library; one shard a tar.

    Args:
        pattern: paths or URLs with braces to expand, e.g. ``train-{000..127}.tar``.
    """

    def __init__(self, pattern: str) -> None:
        try:
            from webdataset.shardlists import expand_urls
        except ImportError as error:
            raise PackError(
                "tars need the library webdataset: pip install 'hear_axlstm[train]'"
            ) from error
        try:
            self.urls: list[str] = expand_urls(pattern)
        except ValueError as error:
            raise PackError(f"{pattern}: {error}: write e.g. train-{{000..127}}.tar") from error
        self.name = pattern if _is_remote(pattern) else os.path.abspath(pattern)
        self._above = os.path.commonprefix(self.urls).rfind("/") + 1  # noqa: RUF071 (URLs, too)

    def units(self, size: int | None = None) -> Iterator[Unit]:
        """All clips, tar by tar."""
        for url in self.urls:
            stamp = url if _is_remote(url) else f"{url[self._above :]}:{_stamp(url)}"
            yield Unit(self._read(url), None, partial(iter, [stamp]))

    def sample(self, size: int) -> tuple[list[Clip | Skipped], int]:
        """Clips of the first tar; the others are taken to hold as many."""
        clips = self._read(self.urls[0])
        found = list(islice(clips, size))
        return found, (len(found) + sum(1 for _ in clips)) * len(self.urls)

    def _read(self, url: str) -> Iterator[Clip | Skipped]:
        from webdataset import gopen
        from webdataset.tariterators import tar_file_iterator

        name, clips = url[self._above :], 0
        try:
            with gopen(url) as stream:
                for member in tar_file_iterator(stream, select_files=_is_audio):
                    yield Clip(f"{name}/{member['fname']}", member["data"])
                    clips += 1
        except Exception as error:  # of the tar format, a compression, a file or a connection
            detail = str(error).split(" @ <")[0]
            reason = f"breaks off, after {clips} clips ({detail}): fetch it again"
            yield Skipped(name, reason, passing=_is_remote(url))


def _is_remote(url: str) -> bool:
    return "://" in url or url.startswith("pipe:")


def _is_audio(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    hidden = os.path.basename(name).startswith(".")
    return suffix in AUDIO_SUFFIXES | OTHER_AUDIO_SUFFIXES and not hidden


def _clip_of_row(row: Mapping[str, str], number: int, folder: str) -> Clip | Skipped:
    path = row.get("path", "").strip()
    span = [row.get(name, "").strip() for name in ("start", "end")]
    clip_id = f"{path}@{'-'.join(span)}" if any(span) else path
    if not path:
        return Skipped(f"row {number}", "no path: fill the column in")
    try:
        start = float(span[0] or 0)
        end = float(span[1]) if span[1] else None
    except ValueError:
        return Skipped(clip_id, "no valid span: give start and end as numbers of seconds")
    if not (0 <= start < math.inf and (end is None or start < end < math.inf)):
        return Skipped(clip_id, "no valid span: it must start at 0 or later, and end after that")
    return Clip(clip_id, os.path.join(folder, path), start, end)


def _stamps(clips: Iterable[Clip | Skipped]) -> Iterator[str]:
    for clip in clips:
        path = clip.audio if isinstance(clip, Clip) and isinstance(clip.audio, str) else ""
        yield f"{clip.id}:{_stamp(path)}"


def _stamp(path: str) -> str:
    """Size, time of change and readability of a file."""
    try:
        stat = os.stat(path)
    except OSError:
        return "missing"
    readable = "" if os.access(path, os.R_OK) else ":unreadable"
    return f"{stat.st_size}:{stat.st_mtime_ns}{readable}"
