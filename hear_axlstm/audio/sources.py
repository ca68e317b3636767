"""Audio sources: files, folders, patterns, CSVs, tars and standard input as lists of clips.

Every command lists its audio here. A source lists its clips in a fixed order, without decoding
them, one by one or in groups. Both are created lazily, so that millions of clips don't have to fit
in memory.
"""

from __future__ import annotations

import glob
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path

from hear_axlstm.audio.clips import AudioClip, ClipGroup, Source, file_stamp
from hear_axlstm.audio.errors import printable
from hear_axlstm.audio.listing import (
    REQUEST,
    STAMP,
    SourceError,
    find_by_name,
    list_folder,
    match_pattern,
    may_be_audio,
)
from hear_axlstm.audio.skipped import Skipped, is_report
from hear_axlstm.audio.tables import Row, Table
from hear_axlstm.audio.tars import TarSource, is_remote

log = logging.getLogger(__name__)

TABLE_SUFFIXES = (".csv", ".tsv")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
STDIN = "-"


def open_source(
    inputs: str | Path | Sequence[str | Path], path_column: str | None = None
) -> Source:
    """Open one or several inputs as one source.

    Args:
        inputs: audio files, folders, patterns such as ``a/**/*.flac``, CSV or TSV files, WebDataset
            tars (paths or URLs, with braces to expand), or ``-`` for paths on standard input. A
            clip's id is its path below the folder, its row's path, or its name in the tar; with
            several inputs, the input's own name precedes it. The id of a single file is its path.
        path_column: column of paths in CSV files; by default a usual name such as path or filename.

    Raises:
        SourceError, TableError: if an input does not exist or lists no clips.
    """
    texts = [str(inputs)] if isinstance(inputs, (str, Path)) else [str(text) for text in inputs]
    if not texts:
        raise SourceError("no input: pass files, folders, a CSV, tars, or - for a list")
    expanded = [(text, list(_expand(text))) for text in texts]
    found = [pair for _, pairs in expanded for pair in pairs]
    sources: list[tuple[str, Source]] = []
    for is_file, pairs in groupby(found, key=itemgetter(0)):
        paths = [path for _, path in pairs]
        if is_file:
            sources.append(("", FileSource(paths)))
        else:
            sources += [(p if len(found) > 1 else "", _open(p, path_column)) for p in paths]
    is_one = len(sources) == 1 and not sources[0][0]
    source = sources[0][1] if is_one else SeveralSources(sources)
    source.name = _name(expanded)
    return source


def _name(expanded: Sequence[tuple[str, list[tuple[bool, str]]]]) -> str:
    """Name the inputs as given, so that another file that a pattern matches changes nothing."""
    files: list[str] = []
    names: list[str] = []
    for text, found in expanded:
        if text == STDIN or found == [(True, text)]:
            files += [os.path.abspath(path) for _, path in found]
        else:
            names.append(_absolute(text))
    if len(files) > 1:  # listed, or a pattern that the shell has expanded
        above = os.path.dirname(os.path.commonprefix(files))  # noqa: RUF071 (drives may differ)
        files = [f"files in {above}"]
    return ", ".join([*names, *files])


def _absolute(text: str) -> str:
    if os.path.isdir(text):
        return os.path.realpath(text)
    return text if is_remote(text) else os.path.abspath(text)


def _open(text: str, path_column: str | None) -> Source:
    if os.path.isdir(text):
        return FolderSource(Path(text))
    if text.lower().endswith(TABLE_SUFFIXES):
        return TableSource(Path(text), path_column)
    return TarSource(text)


def _expand(text: str) -> Iterator[tuple[bool, str]]:
    """Expand an input into single files (True) and sources of several clips (False)."""
    is_tar = text.lower().endswith(TAR_SUFFIXES)
    if text == STDIN:
        yield from ((True, path) for path in _listed())
    elif is_remote(text) and (may_be_audio(text) or text.lower().endswith(TABLE_SUFFIXES)):
        raise SourceError(f"{text}: only tars are read from URLs: download the file first")
    elif is_remote(text) or (is_tar and "{" in text):
        yield False, text
    elif os.path.exists(text) or not glob.has_magic(text):
        if not os.path.lexists(text):
            raise SourceError(f"{printable(text)} does not exist: check the path")
        yield not _has_clips(text), text
    else:
        matches = [path for path in match_pattern(text) if may_be_audio(path) or _has_clips(path)]
        matches = [path for path in matches if not _is_output(path)]
        if not matches:
            raise SourceError(f"{text} matches no audio files: check the pattern")
        yield from ((not _has_clips(path), path) for path in matches)


def _has_clips(path: str) -> bool:
    """Whether a path is a folder, a table or a tar, and not a single file."""
    return os.path.isdir(path) or path.lower().endswith(TABLE_SUFFIXES + TAR_SUFFIXES)


def _is_output(path: str) -> bool:
    """Whether a match was written by `axlstm embed`: embeddings, their parts, or a report."""
    if os.path.isdir(path):
        return any(os.path.isfile(os.path.join(path, name)) for name in (STAMP, REQUEST))
    return path.lower().endswith(TABLE_SUFFIXES) and is_report(Path(path))


def _listed() -> list[str]:
    """Read paths from standard input, one per line or NUL-separated as from `find -print0`."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise SourceError("standard input can't be shared by the processes of torchrun: use a CSV")
    content = sys.stdin.buffer.read()
    lines = content.split(b"\0") if b"\0" in content else content.splitlines()
    paths = [os.fsdecode(line) for line in lines if line.strip()]
    if not paths:
        raise SourceError("standard input lists no files: write one path per line")
    return paths


class SingleFiles:
    """Base class of sources of single files; subclasses define `clips` and `__len__`."""

    name = ""

    def clips(self) -> Iterator[AudioClip | Skipped]:
        """All clips, in a fixed order."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def groups(self, size: int, most: int | None = None) -> Iterator[ClipGroup]:
        """All clips in groups of `size`, which is doubled until there are at most `most`."""
        clips = self.clips()
        while most is not None and len(self) > size * most:
            size *= 2
        while members := tuple(islice(clips, size)):
            yield ClipGroup(members, len(members), partial(_stamps, members))

    def sample(self, size: int) -> tuple[list[AudioClip | Skipped], int]:
        """Evenly spaced clips, and the total number of clips."""
        step = max(1, len(self) // size)
        return list(islice(self.clips(), step // 2, None, step))[:size], len(self)


class FileSource(SingleFiles):
    """A list of audio files; a clip's id is its path."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def clips(self) -> Iterator[AudioClip | Skipped]:
        """All clips, in the order given."""
        return (AudioClip(path, path) for path in self._paths)


class FolderSource(SingleFiles):
    """Every audio file below a folder; a clip's label is the name of the first subfolder.

    Folders that can't be read are listed as skipped.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise SourceError(f"{folder} is not a directory: check the path")
        self._folder = str(folder)
        listing = list_folder(self._folder)
        self._entries = sorted([*listing.files, *listing.unreadable])
        self._unreadable = listing.unreadable
        if not listing.files:
            raise SourceError(f"{folder} contains no audio files{listing.hint()}")
        if listing.others:
            log.info("%s: ignoring %s", folder, listing.others_text())

    def __len__(self) -> int:
        return len(self._entries)

    def clips(self) -> Iterator[AudioClip | Skipped]:
        """All clips, ordered by path."""
        for path in self._entries:
            if path in self._unreadable:
                yield Skipped(path, self._unreadable[path])
            else:
                label = path.split("/")[0] if "/" in path else ""
                file = os.path.join(self._folder, path)
                yield AudioClip(path, file, labels=(label,) if label else ())


class TableSource(SingleFiles):
    """The rows of a CSV or TSV: a path, and optionally a span by `start` and `end` in seconds.

    Paths are relative to the file; if it is a symbolic link, as in the Hugging Face cache, to the
    link, or else to its target. Bare names that don't exist there are searched for below its folder
    and in sibling folders with "audio" in their name, also without their extension, which finds the
    audio of ESC-50, FSD50K and UrbanSound8K. Columns `start_seconds` and `end_seconds`
    are synonyms of `start` and `end`; other columns are ignored.
    """

    def __init__(self, path: Path, path_column: str | None = None) -> None:
        self.table = Table(path, path_column)
        target = os.path.dirname(os.path.realpath(path))
        self._folders = list(dict.fromkeys((os.path.realpath(path.parent), target)))
        self._span = [self._span_column(name) for name in ("start", "end")]
        self._size = sum(1 for _ in self.table.rows())
        if not self._size:
            raise SourceError(f"{path} lists no clips: add rows below the header")
        first = islice(self.table.rows(), 100)
        names = [row.values.get(self.table.path_column, "") for row in first]
        by_name = (find_by_name(folder, names) for folder in self._folders)
        self._found = next(filter(None, by_name), {})
        if self._found:
            folders = sorted({os.path.dirname(self._found[n]) for n in names if n in self._found})
            log.info("%s: its files were found in %s", path, ", ".join(folders[:3]))

    def __len__(self) -> int:
        return self._size

    def clips(self) -> Iterator[AudioClip | Skipped]:
        """The clip of each row, or why it was skipped."""
        return (clip for _, clip in self.rows())

    def rows(self) -> Iterator[tuple[Row, AudioClip | Skipped]]:
        """Each row with its clip, or why it was skipped."""
        for number, row in enumerate(self.table.rows(), 1):
            yield row, self._clip(row, number)

    def _clip(self, row: Row, number: int) -> AudioClip | Skipped:
        path = row.values.get(self.table.path_column, "")
        if row.fault or not path:
            return Skipped(f"row {number}", row.fault or "no path: fill in the column")
        start, end = (row.values.get(name, "") if name else "" for name in self._span)
        clip_id = f"{path}@{start}-{end}" if start or end else path
        try:
            first, last = self._seconds(start) or 0.0, self._seconds(end)
        except ValueError:
            return Skipped(clip_id, "no valid span: give start and end as numbers of seconds")
        infinity = float("inf")
        if not (0 <= first < infinity and (last is None or first < last < infinity)):
            return Skipped(
                clip_id, "no valid span: it must start at 0 or later, and end after that"
            )
        return AudioClip(clip_id, self._locate(path), first, last)

    def _span_column(self, name: str) -> str | None:
        if self.table.path_column == "slice_file_name":
            return None  # UrbanSound8K: position in the original recording, not in this file
        return self.table.column(name) or self.table.column(f"{name}_seconds")

    def _seconds(self, text: str) -> float | None:
        if self.table.delimiter == ";":
            text = text.replace(",", ".")  # as spreadsheets write numbers in such files
        return float(text) if text else None

    def _locate(self, path: str) -> str:
        first, *others = (os.path.join(folder, path) for folder in self._folders)
        is_windows = "\\" in path and os.sep == "/"
        if not (others or self._found or is_windows) or os.path.lexists(first):
            return first
        if there := next(filter(os.path.lexists, others), self._found.get(path)):
            return there
        return self._locate(path.replace("\\", "/")) if is_windows else first


class SeveralSources:
    """Concatenation of sources with the prefixes of their ids."""

    name = ""

    def __init__(self, sources: Sequence[tuple[str, Source]]) -> None:
        self._sources = sources

    def clips(self) -> Iterator[AudioClip | Skipped]:
        """All clips, source by source."""
        for name, source in self._sources:
            yield from _below(name, source.clips())

    def groups(self, size: int, most: int | None = None) -> Iterator[ClipGroup]:
        """The groups of each source."""
        for name, source in self._sources:
            for group in source.groups(size, most):
                inputs = partial(_inputs_below, name, group) if name else group.inputs
                yield ClipGroup(_below(name, group.clips), group.size, inputs)

    def sample(self, size: int) -> tuple[list[AudioClip | Skipped], int]:
        """Clips of each source, in proportion to its size, and the total number of clips."""
        parts: list[tuple[list[AudioClip | Skipped], int]] = []
        total = 0
        for _, source in self._sources:
            parts.append(source.sample(size))
            total += parts[-1][1]
            # at once, since clips of tars hold their files' contents
            parts = [(_thinned(clips, round(size * n / max(1, total))), n) for clips, n in parts]
        return list(chain.from_iterable(clips for clips, _ in parts)), total


def _thinned(clips: list[AudioClip | Skipped], number: int) -> list[AudioClip | Skipped]:
    """Evenly spaced clips: at most `number`, at least one if there are any."""
    number = min(len(clips), max(1, number))
    return [clips[place * len(clips) // number] for place in range(number)]


def _below(name: str, clips: Iterable[AudioClip | Skipped]) -> Iterator[AudioClip | Skipped]:
    for clip in clips:
        yield replace(clip, id=f"{name.rstrip('/')}/{clip.id}") if name else clip


def _inputs_below(name: str, group: ClipGroup) -> list[str]:
    return [name, *group.inputs()]


def _stamps(clips: Iterable[AudioClip | Skipped]) -> Iterator[str]:
    for clip in clips:
        path = clip.source if isinstance(clip, AudioClip) and isinstance(clip.source, str) else ""
        yield f"{clip.id}:{file_stamp(path)}"
