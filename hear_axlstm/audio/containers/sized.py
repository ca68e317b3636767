"""Containers that FFmpeg reads and whose parts declare their sizes: MP4, Matroska, ASF.

Boxes: ISO/IEC 14496-12. Elements: RFC 8794 (EBML) and 9559 (Matroska). ASF: Microsoft's
specification, section 3.
"""

from __future__ import annotations

from hear_axlstm.audio.containers.part import COPY_AGAIN, Part, cut_off
from hear_axlstm.audio.errors import Fault
from hear_axlstm.audio.random_access import RandomAccess

ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
EBML, SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"


def mp4_parts(file: RandomAccess, start: int, stop: int) -> list[Part]:
    """The MP4 (M4A, MOV, 3GP) file that begins at `start`, up to the next one.

    Raises:
        Fault: if a box is cut off, or the one that describes the sound is missing.
    """
    at, names = start, set()
    while at + 8 <= stop:
        head = file.at(at, 16)
        size, name = int.from_bytes(head[:4], "big"), head[4:8]
        if name == b"ftyp" and at > start:
            break
        if not (name.isascii() and name.decode().isprintable()):
            break  # filling behind the last box
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        elif size == 0:
            size = stop - at
        if at + size > stop:
            raise cut_off("MP4", size, stop - at)
        names.add(name)
        at += max(size, 8)
    if b"moov" not in names:
        raise Fault(
            f"truncated: an MP4 file (M4A: AAC, ALAC) without its table of contents: {COPY_AGAIN}"
        )
    return [Part(start, at if stop - at >= 8 else stop, "MP4 (M4A)", decoder="mov")]


def matroska_parts(file: RandomAccess, start: int, stop: int) -> list[Part]:
    """The Matroska or WebM file that begins at `start`.

    Raises:
        Fault: if it is shorter than the size it declares.
    """
    at = start
    while at < stop:
        name = file.at(at, 4)
        size, bytes_of_size = _element_size(file.at(at + 4, 8))
        content = at + 4 + bytes_of_size
        if name not in (EBML, SEGMENT) or (name == EBML and at > start):
            break
        if size is None:  # written live: no promise
            at = stop
            break
        if content + size > stop:
            raise cut_off("Matroska", size, stop - content)
        at = content + size
    return [Part(start, at, "Matroska (WebM)", decoder="matroska")]


def _element_size(head: bytes) -> tuple[int | None, int]:
    """Value and width of an EBML size; the value is None where it is unknown."""
    if not head or not head[0]:
        return None, 1
    width = 9 - head[0].bit_length()
    value = int.from_bytes(head[:width], "big") & ((1 << 7 * width) - 1)
    return (None if value == (1 << 7 * width) - 1 else value), width


def asf_parts(file: RandomAccess, start: int, stop: int) -> list[Part]:
    """The ASF (WMA) file that begins at `start`.

    Raises:
        Fault: if it is shorter than the size it declares.
    """
    header = int.from_bytes(file.at(start + 16, 8), "little")
    at = file.find(ASF_FILE_PROPERTIES, start, min(stop, start + max(header, 30)))
    if at >= 0:
        size = int.from_bytes(file.at(at + 40, 8), "little")
        is_live = file.at(at + 88, 1)[:1] == b"\1"
        if size > stop - start and not is_live:
            raise cut_off("ASF (WMA)", size, stop - start)
        stop = start + size if 30 < size < stop - start and not is_live else stop
    return [Part(start, stop, "ASF (WMA)", decoder="asf")]
