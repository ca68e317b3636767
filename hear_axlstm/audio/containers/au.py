"""Sun AU: compares the size in the header with the file."""

from __future__ import annotations

from typing import Literal

from hear_axlstm.audio.containers.part import COPY_AGAIN, Part, cut_off
from hear_axlstm.audio.errors import Fault
from hear_axlstm.audio.random_access import RandomAccess

UNKNOWN = 0xFFFFFFFF


def au_parts(file: RandomAccess, start: int, stop: int) -> list[Part]:
    """The recording in an AU file that begins at `start`.

    Raises:
        Fault: if its data is truncated.
    """
    head = file.at(start, 24)
    order: Literal["big", "little"] = "big" if head[:4] == b".snd" else "little"
    offset, size = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))
    there = stop - start - offset
    if len(head) < 24 or there < 0:
        raise Fault(f"truncated: AU file without audio: {COPY_AGAIN}")
    if size == UNKNOWN or (size == 0 and there):
        patch = start + 8, min(there, UNKNOWN - 1).to_bytes(4, order)
        return [Part(start, stop, "AU", patches=(patch,))]
    if size > there:
        raise cut_off("AU", size, there)
    return [Part(start, start + offset + size, "AU")]
