"""AIFF, AIFF-C and 8SVX: compares the chunk sizes with the file."""

from __future__ import annotations

from hear_axlstm.audio.containers.part import COPY_AGAIN, Part, cut_off
from hear_axlstm.audio.errors import Fault
from hear_axlstm.audio.random_access import Patch, RandomAccess

UNKNOWN = range(0x7FFF0000, 0x100000000)  # declared by programs that could not seek back
BITS = {b"alaw": 8, b"ALAW": 8, b"ulaw": 8, b"ULAW": 8, b"fl32": 32, b"FL32": 32, b"fl64": 64}
BITS |= {b"FL64": 64, b"in24": 24, b"in32": 32}
PLAIN = {b"NONE", b"none", b"sowt", b"twos", b"raw ", *BITS}


def iff_parts(file: RandomAccess, start: int, stop: int) -> list[Part]:
    """The recording in an AIFF, AIFF-C or 8SVX file that begins at `start`.

    Raises:
        Fault: if its data is truncated.
    """
    kind = file.at(start + 8, 4).decode("latin-1")
    kind = {"AIFC": "AIFF-C"}.get(kind, kind)
    common = sound = None
    form = int.from_bytes(file.at(start + 4, 4), "big")
    end = min(stop, start + 8 + form) if form and form not in UNKNOWN else stop
    at = start + 12
    while at + 8 <= stop and (at < end or sound is None):
        head = file.at(at, 8)
        name, size = head[:4], int.from_bytes(head[4:], "big")
        if name == b"COMM":
            common = at
        elif name in (b"SSND", b"BODY"):
            sound = at
            if size == 0 or size in UNKNOWN or at + 8 + size > stop:
                break
        at += 8 + size + size % 2
    if sound is None:
        raise Fault(f"truncated: {kind} file without a sound chunk: {COPY_AGAIN}")
    size = int.from_bytes(file.at(sound + 4, 4), "big")
    there = stop - sound - 8
    frames, frame_bytes = _common(file, common) if common is not None else (0, 0)
    if (size in (0, 8) and frames == 0 and there > 8) or (size in UNKNOWN and size > there):
        return [Part(start, stop, kind, patches=_patches(start, stop, sound, common, frame_bytes))]
    if size > there:
        raise cut_off(kind, size, there)
    if frames * frame_bytes > size - (8 if kind.startswith("AIFF") else 0) and frame_bytes:
        raise cut_off(kind, frames, (size - 8) // frame_bytes, "samples")
    return [Part(start, min(stop, max(end, sound + 8 + size)), kind)]


def _common(file: RandomAccess, at: int) -> tuple[int, int]:
    """Number of frames, and bytes in each, or 0 if the audio is compressed."""
    head = file.at(at + 8, 22)
    channels = int.from_bytes(head[:2], "big")
    bits = int.from_bytes(head[6:8], "big")
    size = int.from_bytes(file.at(at + 4, 4), "big")
    codec = head[18:22] if size >= 22 else b"NONE"
    bits = BITS.get(codec, bits)
    frame = channels * -(-bits // 8) if codec in PLAIN else 0
    return int.from_bytes(head[2:6], "big"), frame


def _patches(
    start: int, stop: int, sound: int, common: int | None, frame_bytes: int
) -> tuple[Patch, ...]:
    """Corrections of all lengths in a header that was not completed, from the file's size."""

    def number(position: int, value: int) -> Patch:
        return position, min(value, 0xFFFFFFFF).to_bytes(4, "big")

    there = stop - sound - 8
    patches = [number(start + 4, stop - start - 8), number(sound + 4, there)]
    if common is not None and frame_bytes:
        patches.append(number(common + 10, (there - 8) // frame_bytes))
    return tuple(patches)
