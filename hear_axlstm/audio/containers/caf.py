"""Apple's Core Audio Format: compares the chunk sizes with the file."""

from __future__ import annotations

from hear_axlstm.audio.containers.magic import begins_file_or_tag
from hear_axlstm.audio.containers.part import COPY_AGAIN, Part, cut_off
from hear_axlstm.audio.errors import Fault
from hear_axlstm.audio.random_access import RandomAccess

CHUNKS = {b"desc", b"data", b"pakt", b"kuki", b"chan", b"free", b"info", b"strg", b"mark"}
CHUNKS |= {b"regn", b"inst", b"midi", b"ovvw", b"peak", b"edct", b"umid", b"uuid"}


def _is_of_user(head: bytes, size: int, there: int) -> bool:
    """Whether a chunk is one that some program has added, which readers skip."""
    has_name = head[:4].isascii() and head[:4].decode().isprintable()
    return has_name and 0 <= size <= there and not begins_file_or_tag(head)


def caf_parts(file: RandomAccess, start: int, stop: int) -> list[Part]:
    """The recording in a CAF file that begins at `start`.

    Raises:
        Fault: if a chunk is truncated.
    """
    at, has_data, patches = start + 8, False, ()
    needs_table = False
    while at + 12 <= stop:
        head = file.at(at, 12)
        name, size = head[:4], int.from_bytes(head[4:], "big", signed=True)
        there = stop - at - 12
        if name not in CHUNKS and not _is_of_user(file.at(at, 64), size, there):
            break
        if name == b"desc":
            needs_table = int.from_bytes(file.at(at + 12 + 16, 4), "big") == 0
        if name == b"data":
            has_data = True
            follows = file.at(at + 12 + size, 4) if 0 <= size <= there else b""
            if size < 0 or (size in (0, 4) and there > 4 and follows not in CHUNKS):
                patches = ((at + 4, there.to_bytes(8, "big")),)  # type: ignore[assignment]
                size = there
        if size > there and (name == b"data" or needs_table or not has_data):
            raise cut_off("CAF", size, there)
        needs_table = needs_table and name != b"pakt"
        at = min(stop, at + 12 + max(0, size))
    if not has_data or needs_table:
        missing = "packet table" if has_data else "audio"
        raise Fault(f"truncated: CAF file without its {missing}: {COPY_AGAIN}")
    return [Part(start, at, "CAF", patches=patches)]
