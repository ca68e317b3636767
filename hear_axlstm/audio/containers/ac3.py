"""AC-3 and E-AC-3: compares the size of each frame with the file.

Frame headers: ETSI TS 102 366, sections 4.3 (AC-3), 4.4.1.4 and E.1.2 (E-AC-3).
"""

from __future__ import annotations

from hear_axlstm.audio.containers.part import COPY_AGAIN, Part
from hear_axlstm.audio.errors import Fault
from hear_axlstm.audio.random_access import RandomAccess

SYNC = b"\x0b\x77"
HEADER_BYTES = 6
BITRATES = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
RATES = (48_000, 44_100, 32_000)
SAMPLES = 1536  # in a frame of AC-3
LAST_AC3 = 10  # bit stream identification; E-AC-3 has a larger one


def ac3_parts(file: RandomAccess, start: int, stop: int) -> list[Part]:
    """The AC-3 stream that begins at `start`.

    Raises:
        Fault: if it ends within a frame.
    """
    at = start
    while at < stop and (size := _frame_size(file.at(at, HEADER_BYTES))) is not None:
        at += size
    rest = file.at(at, stop - at) if at < stop < at + HEADER_BYTES else b""
    if at > stop or (rest and SYNC.startswith(rest[:2])):
        raise Fault(f"truncated within a frame of its AC-3 stream: {COPY_AGAIN}")
    return [Part(start, stop, "AC-3", decoder="ac3")]


def _frame_size(head: bytes) -> int | None:
    """Bytes of the frame with this header; None if it is not one."""
    if len(head) < HEADER_BYTES or not head.startswith(SYNC):
        return None
    if head[5] >> 3 > LAST_AC3:
        return 2 * (int.from_bytes(head[2:4], "big") % (1 << 11) + 1)
    rate, code = head[4] >> 6, head[4] & 0x3F
    if rate >= len(RATES) or code >= 2 * len(BITRATES):
        return None
    words = 1000 * BITRATES[code // 2] * SAMPLES // RATES[rate] // 16
    return 2 * (words + (code % 2 if RATES[rate] == 44_100 else 0))
