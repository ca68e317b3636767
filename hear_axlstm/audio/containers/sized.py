"""Containers whose parts declare their sizes: MP4, Matroska, ASF, AVI, FLV, MPEG-TS.

FFmpeg decodes them. Boxes: ISO/IEC 14496-12. Elements: RFC 8794 (EBML) and 9559 (Matroska). ASF:
Microsoft's specification, section 3. FLV: Adobe's specification, annex E. MPEG-TS: ISO/IEC 13818-1.
"""

from __future__ import annotations

from hear_axlstm.audio.containers.part import COPY_AGAIN, COPY_OR_REWRITE, Part, cut_off
from hear_axlstm.audio.errors import Fault
from hear_axlstm.audio.random_access import RandomAccess

ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
EBML, SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
TS_PACKET = 188  # bytes
UNKNOWN_AVI = range(0x7FFF0000, 0x100000000)  # declared by programs that could not seek back


def mp4_parts(file: RandomAccess, start: int, stop: int) -> list[Part]:
    """The MP4 (M4A, MOV, 3GP) file that begins at `start`, up to the next one.

    Raises:
        Fault: if a box is truncated, or the one that describes the audio is missing.
    """
    at, names = start, set()
    while at + 8 <= stop:
        head = file.at(at, 16)
        size, name = int.from_bytes(head[:4], "big"), head[4:8]
        if name == b"ftyp" and at > start:
            break
        if not (name.isascii() and name.decode().isprintable()):
            break  # padding after the last box
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
        Fault: if it is shorter than the size it declares, or ends within an element.
    """
    at = start
    while at < stop:
        name = file.at(at, 4)
        if name not in (EBML, SEGMENT) or (name == EBML and at > start):
            break
        size, content = _element(file, at)
        if size is None:  # written live, with clusters of unknown size, too
            at = _end_of_elements(file, content, stop)
            break
        if content + size > stop:
            raise cut_off("Matroska", size, stop - content)
        at = content + size
    return [Part(start, at, "Matroska (WebM)", decoder="matroska")]


def _end_of_elements(file: RandomAccess, at: int, stop: int) -> int:
    """End of the elements of a segment of unknown size."""
    while at < stop and file.at(at, 4) != EBML:
        size, content = _element(file, at)
        if content + (size or 0) > stop:
            raise Fault(f"truncated within an element of its Matroska file: {COPY_OR_REWRITE}")
        at = content + (size or 0)
    return min(at, stop)


def _element(file: RandomAccess, at: int) -> tuple[int | None, int]:
    """Size of an element's content, None if it is unknown, and where it begins."""
    head = file.at(at, 12)
    name_bytes = 9 - head[0].bit_length() if head and head[0] >> 4 else 4
    size = head[name_bytes:]
    if not size or not size[0]:
        return None, at + name_bytes + 1
    width = 9 - size[0].bit_length()
    value = int.from_bytes(size[:width], "big") & ((1 << 7 * width) - 1)
    content = at + name_bytes + width
    return (None if value == (1 << 7 * width) - 1 else value), content


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


def avi_parts(file: RandomAccess, start: int, stop: int) -> list[Part]:
    """The AVI file that begins at `start`, with its extensions beyond 1 GiB.

    Raises:
        Fault: if it is shorter than the size it declares.
    """
    at = start
    while file.at(at, 4) == b"RIFF" and (at == start or file.at(at + 8, 4) == b"AVIX"):
        size = int.from_bytes(file.at(at + 4, 4), "little")
        if not size or size in UNKNOWN_AVI:
            at = stop
        elif at + 8 + size > stop:
            raise cut_off("AVI", size, stop - at - 8)
        else:
            at += 8 + size + size % 2
    return [Part(start, min(at, stop), "AVI", decoder="avi")]


def flv_parts(file: RandomAccess, start: int, stop: int) -> list[Part]:
    """The FLV file that begins at `start`, up to the next one.

    Raises:
        Fault: if it ends within a tag.
    """
    at = start + int.from_bytes(file.at(start + 5, 4), "big") + 4  # with the size of the tag before
    while at < stop and file.at(at, 3) != b"FLV":
        at += 11 + int.from_bytes(file.at(at + 1, 3), "big") + 4
    if at > stop:
        raise Fault(f"truncated within a tag of its FLV file: {COPY_OR_REWRITE}")
    return [Part(start, at, "FLV", decoder="flv")]


def ts_parts(start: int, stop: int) -> list[Part]:
    """The MPEG transport stream in [start, stop).

    Raises:
        Fault: if it ends within a packet.
    """
    if (stop - start) % TS_PACKET:
        raise Fault(f"truncated within a packet of its MPEG-TS: {COPY_OR_REWRITE}")
    return [Part(start, stop, "MPEG-TS", decoder="mpegts")]
