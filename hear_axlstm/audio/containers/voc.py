"""Creative Voice File: compares the block sizes with the file."""

from __future__ import annotations

from hear_axlstm.audio.containers.part import Part, cut_off
from hear_axlstm.audio.random_access import RandomAccess


def voc_parts(file: RandomAccess, start: int, stop: int) -> list[Part]:
    """The recording in a VOC file that begins at `start`.

    Raises:
        Fault: if one of its blocks is truncated.
    """
    at = start + int.from_bytes(file.at(start + 20, 2), "little")
    while at + 4 <= stop and (head := file.at(at, 4))[0]:  # a block of type 0 ends the file
        size = int.from_bytes(head[1:], "little")
        if at + 4 + size > stop:
            raise cut_off("VOC", size, stop - at - 4)
        at += 4 + size
    return [Part(start, min(at + 1, stop), "VOC")]
