"""NIST SPHERE, the format of older speech corpora: compares its sample count with the file."""

from __future__ import annotations

import re

from hear_axlstm.audio.containers.part import Part, cut_off
from hear_axlstm.audio.random_access import RandomAccess


def nist_parts(file: RandomAccess, start: int, stop: int) -> list[Part]:
    """The recording in a SPHERE file that begins at `start`.

    Raises:
        Fault: if its data is truncated.
    """
    size_text = file.at(start + 8, 8).strip()
    head_size = int(size_text) if size_text.isdigit() else 1024
    head = file.at(start, min(head_size, 1 << 16))
    fields = dict(re.findall(rb"^(\w+) -i (\d+)\s*$", head, re.MULTILINE))
    names = (b"sample_count", b"sample_n_bytes", b"channel_count")
    count, width, channels = (int(fields.get(name, b"0")) for name in names)
    size, there = count * width * max(1, channels), max(0, stop - start - head_size)
    if not size or b"shorten" in head:
        return [Part(start, stop, "NIST SPHERE")]
    if size > there:
        raise cut_off("NIST", size, there)
    return [Part(start, start + head_size + size, "NIST SPHERE")]
