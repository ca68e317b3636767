"""CSV reader: rows with their line numbers, tolerant of format variants, strict about damage.

Accepts commas, tabs, semicolons or vertical bars; UTF-8 or UTF-16, with or without a byte order
mark; capitals, and spaces around names and values; blank lines, and comments above the header.
Rejects, with the line number: an unclosed quote, a duplicate column, an overlong field. Between
tabs, as in Common Voice, values may also be unquoted and contain any quotes.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hear_axlstm.audio.errors import printable
from hear_axlstm.audio.listing import SourceError, may_be_audio

OPEN_CSV: Mapping[str, Any] = {
    "newline": "",
    "encoding": "utf-8",
    "errors": "surrogateescape",  # file names that are not UTF-8 keep their bytes
}
"""How every CSV of this package is opened for writing."""

PATH_COLUMNS = ("path", "filename", "file_name", "fname", "slice_file_name", "filepath", "file")
"""Names of the column of paths, in order of preference, in lower case."""

DELIMITERS = ",\t;|"
NO_DELIMITER = "\x1f"  # of a table with one column: commas belong to its values
BYTE_ORDER_MARK = "\ufeff"  # within a file that was joined from several
NUL_MARK = "\u2400"  # stands for NUL, which neither csv nor the file system accepts
SNIFFED_BYTES = 4096
ZIP = b"PK\3\4"
DECLARED = re.compile(r'"?sep=.?"?\s*$', re.IGNORECASE)  # the first line of files for Excel
CONTROL = re.compile(r"[\0-\x08\x0e-\x1f]")  # characters that text doesn't have
QUOTED = re.compile(r'\s*"((?:[^"]|"")*)"\s*')
BLANKS_AFTER_QUOTE = re.compile(r'" +(?=[,\t;|\r\n])')


class TableError(SourceError):
    """Raised for an unreadable CSV; the message names the file, the line and the remedy."""


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    line: int
    """Line where it begins, counted from 1."""
    values: Mapping[str, str]
    """Values by column in lower case, without blanks around them."""
    fault: str = ""
    """Why the row can't be used; empty if it can."""


class Table:
    """A CSV or TSV file with a header.

    Args:
        path: path of the file.
        path_column: name of the column of paths; by default the first of `PATH_COLUMNS` found.

    Raises:
        TableError: if the file does not exist, or its header lacks the column or has duplicates.
    """

    def __init__(self, path: Path, path_column: str | None = None) -> None:
        if not path.is_file():
            raise TableError(f"{path} does not exist or is not a file: check the path")
        self.path = path
        with open(path, "rb") as file:
            if file.read(4) == ZIP:
                raise TableError(f"{path} is an Excel file or a ZIP archive: save it as CSV")
        self._encoding = _encoding(path)
        header, self._header_line = self._read_header()
        if CONTROL.search(header):
            raise TableError(f"{path} is not text in UTF-8 or UTF-16: save it as CSV")
        wanted = [path_column.lower()] if path_column else list(PATH_COLUMNS)
        self.delimiter = _delimiter(header, wanted)
        try:
            names = next(csv.reader([header], delimiter=self.delimiter, skipinitialspace=True), [])
        except csv.Error as error:
            raise TableError(f"{path}, line {self._header_line}: {error}") from error
        self.columns = [name.strip() for name in names]
        """Column names as written."""
        self._names = [name.lower() for name in self.columns]
        doubled = [name for name, n in Counter(filter(None, self._names)).items() if n > 1]
        if doubled:
            raise TableError(
                f"{path}, line {self._header_line}: the column {doubled[0]!r} occurs twice: "
                "rename one"
            )
        found = [name for name in wanted if name in self._names]
        if not found:
            raise TableError(self._no_path_column(path_column))
        self.path_column = found[0]

    def _no_path_column(self, path_column: str | None) -> str:
        has = printable(", ".join(filter(None, self.columns))) or "nothing"
        start = f"{self.path} has no column {path_column or 'path'!r}: its header has {has}"
        return f"{start}; name the column of paths with --path-column"

    def column(self, name: str) -> str | None:
        """The key in `Row.values` of a column, found regardless of case."""
        return name.strip().lower() if name.strip().lower() in self._names else None

    def rows(self) -> Iterator[Row]:
        """Yield all nonblank rows below the header.

        Raises:
            TableError: for damage that would merge or drop rows.
        """
        with self._open() as file:
            for _ in range(self._header_line):
                next(file)
            lines = _Lines(file, self._header_line)
            reader = csv.reader(lines, delimiter=self.delimiter, skipinitialspace=True, strict=True)
            while True:
                first = lines.number + 1
                lines.taken.clear()
                try:
                    values = next(reader)
                    damage = "unexpected end" if self._swallows(lines.taken) else ""
                except StopIteration:
                    return
                except csv.Error as error:
                    damage = str(error)
                if damage:
                    if self.delimiter != "\t" or not self._is_whole(lines.taken[0]):
                        raise self._damaged(first, damage)
                    values = [_unquoted(value) for value in lines.taken[0].split("\t")]
                    lines.return_all_but_first()
                if any(value.strip() for value in values):
                    yield self._row(first, values)

    def _row(self, line: int, values: list[str]) -> Row:
        values = [value.strip() for value in values]
        extra = [value for value in values[len(self._names) :] if value]
        fault = ""
        if extra:
            fault = (
                f"{len(values)} values for {len(self._names)} columns: put values that contain a "
                f"{self.delimiter!r} in quotes"
            )
        named = dict(zip(self._names, values, strict=False))
        if any(NUL_MARK in value for value in named.values()):
            fault = "it contains a NUL byte: export the file again"
        return Row(line, named, fault)

    def _damaged(self, line: int, reason: str) -> TableError:
        if "field larger" in reason:
            reason = "a quote opened here is not closed, or a value is too long"
        elif "unexpected end" in reason:
            reason = "a quote opened here is not closed on the line"
        return TableError(f"{self.path}, line {line}: {reason}: correct or remove the line")

    def _swallows(self, lines: list[str]) -> bool:
        """Whether the lines of one record look like several rows."""
        if len(lines) == 1:
            return False
        first, *within, last = lines
        if len(self._names) == 1 or any(map(self._is_whole, within)):
            return True
        return all(
            self._is_whole(line) and may_be_audio(self._path(line)) for line in (first, last)
        )

    def _path(self, line: str) -> str:
        """What stands in the column of paths of a line."""
        return line.split(self.delimiter)[self._names.index(self.path_column)].strip(' "\r\n')

    def _is_whole(self, line: str) -> bool:
        """Whether a line has as many delimiters as a row."""
        return line.count(self.delimiter) == len(self._names) - 1

    def _read_header(self) -> tuple[str, int]:
        with self._open() as file:
            for number, line in enumerate(file, 1):
                if line.strip() and not line.startswith("#") and not DECLARED.match(line):
                    return line, number
        raise TableError(f"{self.path} is empty: write a header, e.g. path,start,end")

    def _open(self) -> IO[str]:
        errors = "surrogateescape" if self._encoding == "utf-8-sig" else "replace"
        return open(self.path, newline="", encoding=self._encoding, errors=errors)


def _unquoted(value: str) -> str:
    """A value without quotes around all of it."""
    quoted = QUOTED.fullmatch(value)
    return quoted[1].replace('""', '"') if quoted else value


class _Lines:
    """Numbered lines of a file; `taken` holds those of the current record."""

    def __init__(self, file: IO[str], number: int) -> None:
        self._file, self.number = file, number
        self.taken: list[str] = []
        self._returned: deque[str] = deque()

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self._returned:
            line = self._returned.popleft()
        else:
            line = BLANKS_AFTER_QUOTE.sub('"', next(self._file))
            line = line.replace("\0", NUL_MARK).replace(BYTE_ORDER_MARK, "")
        self.number += 1
        self.taken.append(line)
        return line

    def return_all_but_first(self) -> None:
        """Yield the lines of the current record again, except for its first."""
        rest = self.taken[1:]
        self._returned.extendleft(reversed(rest))
        self.number -= len(rest)


def _encoding(path: Path) -> str:
    with open(path, "rb") as file:
        start = file.read(SNIFFED_BYTES)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    header = start.partition(b"\n")[0]
    even, odd = header[::2].count(0), header[1::2].count(0)
    if max(even, odd) > 0.3 * len(header):  # UTF-16 without a mark: every other byte is 0
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8-sig"


def _delimiter(header: str, wanted: list[str]) -> str:
    """The delimiter for which there is a column of paths, else the most frequent one."""
    for delimiter in DELIMITERS:
        names = [name.strip().strip('"').strip().lower() for name in header.split(delimiter)]
        if len(names) > 1 and any(name in names for name in wanted):
            return delimiter
    most = max(DELIMITERS, key=header.count)
    return most if most in header else NO_DELIMITER
