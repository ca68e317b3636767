"""FLAC: compares STREAMINFO's sample count with the last frame; finds concatenated streams.

Format: RFC 9639, sections 8.2 (STREAMINFO) and 9.1 (frame header).
"""

from __future__ import annotations

from functools import lru_cache

from hear_axlstm.audio.containers.part import COPY_AGAIN, Part
from hear_axlstm.audio.errors import Fault
from hear_axlstm.audio.random_access import RandomAccess

STREAMINFO_BYTES = 34
MOST_SAMPLES = (1 << 36) - 1
SEARCHED_BYTES = 1 << 20  # from the end, for the last frame
MOST_HEADERS = 4  # tried from the end; random bytes look like one once in 8 MB
BLOCK_SIZES = {1: 192, **{code: 144 << code for code in range(2, 6)}}
BLOCK_SIZES |= {code: 1 << code for code in range(8, 16)}  # 256 is 1 << 8
CRC_8, CRC_16 = (8, 0x07), (16, 0x8005)  # bits and polynomial


def flac_parts(file: RandomAccess, start: int, stop: int) -> list[Part]:
    """The FLAC stream that begins at `start`, up to the next one.

    Raises:
        Fault: if it ends within its metadata or, if its length is unknown, within a frame.
    """
    at, is_last = start + 4, False
    while not is_last:
        head = file.at(at, 4)
        is_last = bool(head[:1] and head[0] & 0x80)
        at += 4 + int.from_bytes(head[1:], "big")
        if at >= stop or len(head) < 4:
            raise Fault(f"truncated: FLAC file without audio: {COPY_AGAIN}")
    end = _next_stream(file, at, stop)
    # STREAMINFO: 20 bits of sample rate, 3 of channels, 5 of depth, 36 of the number of samples
    word = int.from_bytes(file.at(start + 18, 8), "big")
    declared = word & MOST_SAMPLES
    smallest, largest = file.at(start + 8, 2), file.at(start + 10, 2)
    # Frame numbers count blocks if all have one size, else samples, even in older files that don't
    # say so in the frame header
    unit = int.from_bytes(smallest, "big") if smallest == largest else 1
    there = _samples_there(file, at, end, unit, declared)
    if there is None and not declared:
        raise Fault(f"truncated within a frame of its FLAC stream: {COPY_AGAIN}")
    if there is None or there <= declared:
        return [Part(start, end, "FLAC", frames=declared)]
    corrected = (word - declared + there).to_bytes(8, "big")
    return [Part(start, end, "FLAC", frames=there, patches=((start + 18, corrected),))]


def _next_stream(file: RandomAccess, at: int, stop: int) -> int:
    while (at := file.find(b"fLaC", at, stop)) >= 0:
        head = file.at(at + 4, 4)
        if head[:1] in (b"\0", b"\x80") and head[1:] == bytes((0, 0, STREAMINFO_BYTES)):
            return at
        at += 4
    return stop


def _samples_there(
    file: RandomAccess, start: int, stop: int, unit: int, declared: int
) -> int | None:
    """Samples up to the end of the last frame; None if no frame ends where the stream does."""
    first = max(start, stop - SEARCHED_BYTES)
    tail = file.at(first, stop - first)
    at, headers = len(tail), 0
    while headers < MOST_HEADERS and (at := tail.rfind(b"\xff", 0, at)) >= 0:
        end = _end_of_frame(tail[at : at + 16], unit)
        if end is not None and (end == declared or not _crc(tail[at:], *CRC_16)):
            return end
        headers += end is not None
    return None


def _end_of_frame(head: bytes, unit: int) -> int | None:
    """Samples up to the end of the frame with this header; None if it is not one."""
    if head[1:2] not in (b"\xf8", b"\xf9") or len(head) < 6 or head[3] & 1:
        return None
    code = head[2] >> 4
    width = 8 - (head[4] ^ 0xFF).bit_length()  # leading ones: numbers are coded as in UTF-8
    width = width or 1
    number = head[4] & (0x7F >> (0 if width == 1 else width))
    for byte in head[5 : 4 + width]:
        number = number << 6 | byte & 0x3F
    at = 4 + width
    size = BLOCK_SIZES.get(code, 0)
    if code in (6, 7):
        size = int.from_bytes(head[at : at + code - 5], "big") + 1
        at += code - 5
    at += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if not size or len(head) <= at or _crc(head[: at + 1], *CRC_8):
        return None
    is_fixed = head[1] == 0xF8
    return number * (unit if is_fixed else 1) + size


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    """Checksum of data; 0 if the data ends with its own checksum."""
    top, mask, value = 1 << (bits - 1), (1 << bits) - 1, 0
    table = _table(top, mask, polynomial)
    for byte in data:
        value = (value << 8 & mask) ^ table[value >> (bits - 8) ^ byte]
    return value


@lru_cache
def _table(top: int, mask: int, polynomial: int) -> list[int]:
    table = []
    for byte in range(256):
        value = byte * (top >> 7)
        for _ in range(8):
            value = (value << 1 & mask) ^ (polynomial if value & top else 0)
        table.append(value)
    return table
