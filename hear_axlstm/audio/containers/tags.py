"""Tags before and after audio: ID3, APE, Lyrics3."""

from __future__ import annotations

from hear_axlstm.audio.random_access import RandomAccess

ID3V1_BYTES = 128
APE_BYTES = 32  # of the header and of the footer; byte 23 of each says which of them exist


def tag_end(file: RandomAccess, at: int, stop: int) -> int | None:
    """End of the tag that begins at `at`, or None if there is none."""
    head = file.at(at, APE_BYTES)
    end = None
    if head.startswith(b"ID3") and len(head) >= 10 and max(head[6:10]) < 0x80:
        size = 0
        for byte in head[6:10]:
            size = size << 7 | byte
        end = at + 10 + size + (10 if head[5] & 0x10 else 0)
    elif head.startswith(b"TAG"):
        end = at + ID3V1_BYTES
    elif head.startswith(b"APETAGEX") and len(head) == APE_BYTES:
        size = int.from_bytes(head[12:16], "little")
        end = at + size + (APE_BYTES if head[23] & 0x20 else 0)
    elif head.startswith(b"LYRICSBEGIN"):
        found = file.find(b"LYRICS200", at, stop)
        end = None if found < 0 else found + 9
    return end if end is not None and at < end <= stop else None


def skip_tags(file: RandomAccess, at: int, stop: int) -> int:
    """End of the tags that begin at `at`; `at` itself if there are none."""
    while (end := tag_end(file, at, stop)) is not None:
        at = end
    return at


def trailing_tags(file: RandomAccess, start: int, stop: int) -> int:
    """Start of the tags that end at `stop`; `stop` itself if there are none."""
    if file.at(max(start, stop - ID3V1_BYTES), 3) == b"TAG" and stop - start > ID3V1_BYTES:
        stop -= ID3V1_BYTES
    foot = file.at(max(start, stop - APE_BYTES), APE_BYTES)
    if foot.startswith(b"APETAGEX") and len(foot) == APE_BYTES:
        size = int.from_bytes(foot[12:16], "little")
        begin = stop - size - (APE_BYTES if foot[23] & 0x80 else 0)
        stop = begin if begin > start else stop
    return stop
