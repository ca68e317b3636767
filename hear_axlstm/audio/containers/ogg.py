"""Ogg: checks the pages' order and checksums, chained links and each stream's last page.

Framing, checksum and granule positions: RFC 3533.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

from hear_axlstm.audio.containers.part import COPY_AGAIN, COPY_OR_REWRITE, SNDFILE, Part
from hear_axlstm.audio.errors import Fault
from hear_axlstm.audio.random_access import RandomAccess

PAGE = b"OggS"
CONTENT_BYTES = 512  # of a page, searched for its codec and tags
BEGINS, ENDS = 2, 4  # flags of a page
CODECS = {b"\x01vorbis": "Vorbis", b"OpusHead": "Opus", b"\x7fFLAC": "FLAC", b"Speex   ": "Speex"}
LIVE_ENCODERS = (b"ENCODER=Mozilla",)  # Firefox's recorder writes no last page
SLACK = 8192  # one block of Vorbis: encoders differ in the length that the last page declares
BY_SNDFILE = {"Vorbis", "Opus", "FLAC"}
REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class _Page(NamedTuple):
    start: int
    end: int
    flags: int
    serial: int
    number: int
    content: bytes


class _Link:
    """Multiplexed streams; a chain has several links."""

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self.codecs: list[str] = []
        self.next_number: dict[int, int] = {}
        self.open: set[int] = set()
        self.has_data = self.is_live = False

    def add(self, page: _Page) -> None:
        if page.flags & BEGINS:
            self.open.add(page.serial)
            self.codecs += [
                name for magic, name in CODECS.items() if page.content.startswith(magic)
            ]
        else:
            self.is_live |= any(encoder in page.content for encoder in LIVE_ENCODERS)
            self.has_data = True
        expected = self.next_number.get(page.serial, page.number)
        if page.number != expected and page.serial in self.open:
            raise Fault(
                f"damaged: page {page.number:,} of its Ogg stream follows page {expected - 1:,}; "
                f"pages are lost or out of order: {COPY_AGAIN}"
            )
        self.next_number[page.serial] = page.number + 1
        if page.flags & ENDS:
            self.open.discard(page.serial)
        self.end = page.end

    def part(self) -> Part:
        if self.open and not self.is_live:
            raise Fault(f"truncated: its Ogg stream lacks the page that ends it: {COPY_OR_REWRITE}")
        name = self.codecs[0] if self.codecs else "unknown"
        alone = len(self.next_number) == 1 and name in BY_SNDFILE
        decoder = SNDFILE if alone else "ogg"
        return Part(self.start, self.end, f"Ogg {name}", decoder, slack=SLACK)


def ogg_parts(file: RandomAccess, start: int, stop: int) -> list[Part]:
    """The links of an Ogg file.

    Raises:
        Fault: if a page is damaged, lost or truncated, or the last one is missing.
    """
    parts: list[Part] = []
    link: _Link | None = None
    at = start
    while (at := file.find(PAGE, at, stop)) >= 0:
        page = _page(file, at, stop)
        if link is None or (page.flags & BEGINS and link.has_data):
            if link is not None:
                parts.append(link.part())
            link = _Link(at)
        link.add(page)
        at = page.end
    assert link is not None  # the file begins with a page
    return [*parts, link.part()]


def _page(file: RandomAccess, at: int, stop: int) -> _Page:
    head = file.at(at, 27)
    table = file.at(at + 27, head[26]) if len(head) == 27 else b""
    end = at + 27 + len(table) + sum(table)
    if len(head) < 27 or len(table) < head[26] or end > stop:
        raise Fault(f"truncated within a page of its Ogg stream: {COPY_AGAIN}")
    page = file.at(at, end - at)
    if checksum(page[:22] + bytes(4) + page[26:]) != head[22:26]:
        raise Fault(
            f"damaged: a page of its Ogg stream, at byte {at:,}, does not match its checksum: "
            f"{COPY_AGAIN}"
        )
    serial, number = (int.from_bytes(head[i : i + 4], "little") for i in (14, 18))
    return _Page(at, end, head[5], serial, number, page[27 + len(table) :][:CONTENT_BYTES])


def checksum(page: bytes) -> bytes:
    """Ogg's CRC-32 as stored in a page: zlib's CRC-32 with all bits reversed."""
    value = zlib.crc32(page.translate(REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return value.to_bytes(4, "little").translate(REVERSED_BITS)[::-1]
