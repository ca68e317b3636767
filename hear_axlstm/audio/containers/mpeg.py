"""MPEG audio (MP3, MP2, MP1): counts frames and compares them with the Xing or VBRI header.

Frame headers: ISO/IEC 11172-3, 2.4.2.3 and 13818-3. A stream does not declare its length, but
many encoders write it into a first frame without audio (Xing, Info or VBRI header).
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from hear_axlstm.audio.containers.part import COPY_OR_REWRITE, MpegFrames, Part, cut_off
from hear_axlstm.audio.containers.tags import tag_end
from hear_axlstm.audio.errors import Fault
from hear_axlstm.audio.random_access import RandomAccess

BITRATES = {  # kbit/s by (version 1, layer)
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
BITRATES[(False, 3)] = BITRATES[(False, 2)]
RATES = (44_100, 48_000, 32_000)  # of version 1; halved in version 2, quartered in 2.5
DECODER_DELAY = 529  # samples that a decoder adds to the encoder's delay
JUNK_BYTES = 1 << 24  # searched for the first frame
HEADER = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][\x10-\xef]", re.DOTALL)
HEADER_BYTES = 4
MOST_CANDIDATES = 100_000  # as many as in 400 MB of random bytes
SURE_FRAMES = 4  # consecutive frames that make a stream
MPEG_SHARE = 0.1  # of the bytes after the first frame, at least; else it is another format
EDITED_FRAMES = 2  # beyond the declared number; more are another stream


class Frame(NamedTuple):
    """A frame, as described by its header."""

    size: int
    samples: int
    rate: int
    layer: int
    side_info: int
    """Bytes between the frame header and a Xing header."""


@dataclass
class _Stream:
    """Consecutive frames of one kind, and their declared number."""

    start: int
    frame: Frame
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    declared: int = 0
    declared_bytes: int = 0
    skip: int = 0
    padding: int = 0
    end: int = 0
    size: int = 0
    """Bytes of all frames."""


def mpeg_parts(file: RandomAccess, start: int, stop: int, whole: int | None = None) -> list[Part]:
    """The MPEG streams in [start, stop), or [] if there are none.

    Args:
        file: the file.
        start: where the search for the first frame begins.
        stop: end of the streams.
        whole: end of the enclosing file, by default `stop`.

    Raises:
        Fault: if a stream has fewer frames than its Xing or VBRI header declares, or hardly any
            of the bytes are frames.
    """
    at = _next_frames(file, start, min(stop, start + JUNK_BYTES))
    if at is None:
        return []
    streams = _streams(file, at, stop)
    there = sum(stream.size for stream in streams)
    if there < MPEG_SHARE * (stop - at):
        raise Fault(
            f"not decodable: {there:,} bytes of MPEG audio among {stop - at:,} bytes: copy it "
            "again or convert it to FLAC"
        )
    parts = [part for stream in streams for part in _split(stream)]
    if parts and whole is not None:
        last = parts[-1]
        parts[-1] = Part(last.start, whole, last.kind, last.decoder, last.frames, mpeg=last.mpeg)
    return parts


@lru_cache(maxsize=4096)
def parse_frame(head: bytes) -> Frame | None:
    """Parse the first four bytes of a frame; None if they are not a frame header."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    is_v1, padding, mono = version == 3, head[2] >> 1 & 1, head[3] >> 6 == 3
    hz = RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]
    bits = 1000 * BITRATES[(is_v1, layer)][bitrate - 1]
    side_info = (17 if mono else 32) if is_v1 else (9 if mono else 17)
    if layer == 1:
        return Frame((12 * bits // hz + padding) * 4, 384, hz, layer, side_info)
    samples = 576 if layer == 3 and not is_v1 else 1152
    return Frame(samples // 8 * bits // hz + padding, samples, hz, layer, side_info)


def _same_kind(frame: Frame, other: Frame) -> bool:
    return (frame.rate, frame.layer, frame.samples) == (other.rate, other.layer, other.samples)


def _next_frames(file: RandomAccess, start: int, stop: int) -> int | None:
    """Position of the first of several consecutive frames, or None."""
    at = start
    for _ in range(MOST_CANDIDATES):
        at = file.search(HEADER, HEADER_BYTES, at, stop)
        if at < 0:
            return None
        if _frames_follow(file, at, stop, SURE_FRAMES):
            return at
        at += 1
    return None


def _frames_follow(file: RandomAccess, at: int, stop: int, count: int) -> bool:
    """Whether `count` frames of one kind follow, or fewer up to the end of the stream."""
    first: Frame | None = None
    for number in range(count):
        frame = parse_frame(file.at(at, 4)) if at < stop else None
        if frame is None or (first is not None and not _same_kind(frame, first)):
            return number > 0 and (at == stop or tag_end(file, at, stop) is not None)
        first, at = frame, at + frame.size
    return at <= stop or count > 1


def _streams(file: RandomAccess, at: int, stop: int) -> list[_Stream]:
    streams: list[_Stream] = []
    while at < stop:
        frame = parse_frame(file.at(at, 4))
        known = streams[-1].frame if streams else None
        is_new = frame is not None and (known is None or not _same_kind(frame, known))
        if frame is None or (is_new and not _frames_follow(file, at, stop, SURE_FRAMES)):
            following = _resync(file, at, stop)
            if following is None:
                break
            at = following
            continue
        if at + frame.size > stop:
            break  # the last frame is not complete
        header = _declaring(file, at, frame)
        if header is not None:
            streams.append(header)
        elif is_new:
            streams.append(_Stream(at, frame))
        if header is None:
            streams[-1].offsets.append(at)
        at += frame.size
        streams[-1].end = at
        streams[-1].size += frame.size
    return streams


def _resync(file: RandomAccess, at: int, stop: int) -> int | None:
    """Position of the next frames, after a tag or other data."""
    behind = tag_end(file, at, stop)
    if behind is not None:
        return behind if behind < stop else None
    return _next_frames(file, at + 1, stop)


def _declaring(file: RandomAccess, at: int, frame: Frame) -> _Stream | None:
    """The stream that begins with a Xing, Info or VBRI frame, or None for a frame of audio."""
    if frame.layer != 3:
        return None
    data = file.at(at, min(frame.size, 4 + 32 + 160))
    stream = _Stream(at, frame, end=at + frame.size)
    vbri = data[36:]
    if vbri.startswith(b"VBRI"):
        stream.declared_bytes = int.from_bytes(vbri[10:14], "big")
        stream.declared = int.from_bytes(vbri[14:18], "big")
        return stream
    tag = data[4 + frame.side_info :]
    if not tag.startswith((b"Xing", b"Info")):
        return None
    flags, tag = int.from_bytes(tag[4:8], "big"), tag[8:]
    if flags & 1:
        stream.declared, tag = int.from_bytes(tag[:4], "big"), tag[4:]
    if flags & 2:
        stream.declared_bytes, tag = int.from_bytes(tag[:4], "big"), tag[4:]
    tag = tag[(100 if flags & 4 else 0) + (4 if flags & 8 else 0) :]
    if tag.startswith((b"LAME", b"Lavf", b"Lavc")):  # 12 bits each of delay and padding
        pads = int.from_bytes(tag[21:24], "big")
        stream.skip = (pads >> 12) + DECODER_DELAY
        stream.padding = max(0, (pads & 0xFFF) - DECODER_DELAY)
    return stream


def _split(stream: _Stream) -> list[Part]:
    """A stream as a part, or as two if it has more frames than declared."""
    there, declared = len(stream.offsets), stream.declared
    bytes_lack = stream.declared_bytes > stream.end - stream.start
    # Some encoders also count the frame with the header: one frame fewer is not a loss
    if there < declared - 1 or (there < declared and bytes_lack):
        raise cut_off("Xing", declared, there, "frames", COPY_OR_REWRITE)
    if not there:
        return []
    if not declared or there <= declared + EDITED_FRAMES:
        return [_part(stream, stream.offsets, stream.skip, stream.padding, stream.end)]
    first, rest = stream.offsets[:declared], stream.offsets[declared:]
    return [
        _part(stream, first, stream.skip, stream.padding, rest[0]),
        _part(stream, rest, 0, 0, stream.end),
    ]


def _part(stream: _Stream, offsets: array[int], skip: int, padding: int, end: int) -> Part:
    frame = stream.frame
    total = len(offsets) * frame.samples
    skip = min(skip, total)
    padding = min(padding, total - skip)
    frames = MpegFrames(offsets, frame.samples, frame.rate, skip)
    return Part(
        offsets[0], end, f"MP{frame.layer}", f"mp{frame.layer}float", total - skip - padding,
        mpeg=frames,
    )  # fmt: skip
