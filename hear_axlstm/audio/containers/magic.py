"""Containers recognized by their first bytes."""

from __future__ import annotations

W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")

ANY = (b"",)
FIRST_BYTES: tuple[tuple[str, int, tuple[bytes, ...], int, tuple[bytes, ...]], ...] = (
    ("RIFF", 0, (b"RIFF", b"RIFX", b"RF64", b"BW64"), 8, (b"WAVE",)),
    ("RIFF", 0, (W64_RIFF,), 0, ANY),
    ("IFF", 0, (b"FORM",), 8, (b"AIFF", b"AIFC", b"8SVX", b"16SV")),
    ("AU", 0, (b".snd", b"dns."), 0, ANY),
    ("CAF", 0, (b"caff",), 4, (b"\0\1",)),
    ("FLAC", 0, (b"fLaC",), 0, ANY),
    ("Ogg", 0, (b"OggS",), 4, (b"\0",)),
    ("NIST", 0, (b"NIST_1A",), 0, ANY),
    ("VOC", 0, (b"Creative Voice File\x1a",), 0, ANY),
    ("MP4", 4, (b"ftyp", b"moov", b"mdat", b"wide", b"free"), 0, ANY),
    ("Matroska", 0, (b"\x1aE\xdf\xa3",), 0, ANY),
    ("ASF", 0, (ASF_HEADER,), 0, ANY),
    ("FLV", 0, (b"FLV\1",), 0, ANY),
    ("AVI", 0, (b"RIFF",), 8, (b"AVI ",)),
)
"""Name of a container, and two pairs of a position and the alternatives to be found there."""

TAGS = (b"ID3", b"TAG", b"APETAGEX")


def container_name(head: bytes) -> str | None:
    """The container that begins with these bytes, or None."""
    for name, at, found, at_2, found_2 in FIRST_BYTES:
        if head[at:].startswith(found) and head[at_2:].startswith(found_2):
            return name
    return None


def begins_file_or_tag(head: bytes) -> bool:
    """Whether a container or a tag begins with these bytes."""
    return container_name(head) is not None or head.startswith(TAGS)
