"""Random access to a file's bytes: buffered reads, searches, and windows that act as files."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import BinaryIO

BLOCK_BYTES = 1 << 18
Patch = tuple[int, bytes]
"""Position in the file, and the bytes to be read there instead of those in the file."""


class RandomAccess:
    """Read access to any position of a seekable binary file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = file.seek(0, io.SEEK_END)
        self.error: OSError | None = None
        self._first, self._block = 0, b""

    def at(self, position: int, count: int) -> bytes:
        """Read `count` bytes from `position`; fewer at the end of the file."""
        offset = position - self._first
        if offset < 0 or offset + count > len(self._block):
            self._first, self._block = position, self._read(position, max(count, BLOCK_BYTES))
            offset = 0
        return self._block[offset : offset + count]

    def find(self, needle: bytes, start: int, stop: int) -> int:
        """Position of the first `needle` that lies within [start, stop), or -1."""
        return self._first_match(lambda block: block.find(needle), len(needle), start, stop)

    def search(self, pattern: re.Pattern[bytes], width: int, start: int, stop: int) -> int:
        """Position of the first match of a pattern of up to `width` bytes, or -1."""

        def first(block: bytes) -> int:
            found = pattern.search(block)
            return -1 if found is None else found.start()

        return self._first_match(first, width, start, stop)

    def _first_match(self, first: Callable[[bytes], int], width: int, start: int, stop: int) -> int:
        """Search blocks that overlap, so that each holds whole matches of up to `width` bytes."""
        while start < stop:
            block = self.at(start, min(BLOCK_BYTES, stop - start))
            if (found := first(block)) >= 0:
                return start + found
            if start + len(block) >= stop or len(block) <= width:
                return -1
            start += len(block) - width + 1
        return -1

    def window(self, start: int, stop: int, patches: tuple[Patch, ...] = ()) -> BinaryIO:
        """Return a file with the bytes [start, stop), with `patches` applied."""
        window = _Window(self, start, stop, patches)
        return io.BufferedReader(window, BLOCK_BYTES)

    def check(self) -> None:
        """Raise the error that occurred while a decoder read from a window, if any.

        C libraries read through callbacks and can't propagate exceptions.
        """
        if self.error is not None:
            raise self.error

    def read_once(self, position: int, count: int) -> bytes:
        """Read up to `count` bytes from `position`, once.

        Raises:
            OSError: if reading fails; any other exception of the file object is converted.
        """
        try:
            self.file.seek(position)
            return self.file.read(count)
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {error}") from error

    def _read(self, position: int, count: int) -> bytes:
        blocks = []
        while count > 0 and (block := self.read_once(position, count)):
            position += len(block)
            blocks.append(block)
            count -= len(block)
        return b"".join(blocks)


class _Window(io.RawIOBase):
    def __init__(
        self, access: RandomAccess, start: int, stop: int, patches: tuple[Patch, ...]
    ) -> None:
        self._access, self._start, self._stop = access, start, stop
        self._patches, self._position = patches, start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {
            io.SEEK_SET: self._start,
            io.SEEK_CUR: self._position,
            io.SEEK_END: self._stop,
        }[whence]
        self._position = max(self._start, origin + offset)
        return self._position - self._start

    def tell(self) -> int:
        return self._position - self._start

    def readinto(self, buffer) -> int:
        first = self._position
        count = max(0, min(len(buffer), self._stop - first))
        try:
            data = bytearray(self._access.read_once(first, count))
        except OSError as error:
            self._access.error = error
            return 0
        for position, patch in self._patches:
            low = max(position, first)
            high = min(position + len(patch), first + len(data))
            if low < high:
                data[low - first : high - first] = patch[low - position : high - position]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
