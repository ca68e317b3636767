"""WAV and its variants RIFX, RF64, BW64 and W64: compares the chunk sizes with the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hear_axlstm.audio.containers.magic import W64_RIFF, begins_file_or_tag
from hear_axlstm.audio.containers.mpeg import mpeg_parts
from hear_axlstm.audio.containers.part import COPY_AGAIN, SNDFILE, Part, cut_off
from hear_axlstm.audio.errors import Fault
from hear_axlstm.audio.random_access import Patch, RandomAccess

UNKNOWN_32 = 0xFFFFFFFF  # also the largest size in a header without 64-bit sizes
PIPE_SIZES = range(0x7FFF0000, 0x80000001)  # declared by programs that write into a pipe
PCM_TAGS = {1, 3, 0xFFFE}
MPEG_TAGS = {0x50, 0x55}  # MPEG audio in a WAV
LOST_SECONDS = 0.5  # of audio after the declared end; with more, the header is wrong


class _Chunk(NamedTuple):
    name: bytes
    start: int  # of its content
    size: int
    size_at: int  # position of the size field in the file
    end: int  # where the next one begins


class _Layout(NamedTuple):
    """Format of the chunks: that of WAV or that of W64."""

    kind: str
    order: str
    head: int  # bytes before the first chunk
    wide: bool  # W64: 16-byte names, 8-byte sizes that count the chunk's head

    def size_bytes(self, content: int) -> bytes:
        if self.wide:
            return (content + 24).to_bytes(8, "little")
        return min(content, UNKNOWN_32).to_bytes(4, self.order)  # type: ignore[arg-type]


def riff_parts(file: RandomAccess, start: int, stop: int) -> list[Part]:
    """The recording in a file of the RIFF family that begins at `start`.

    Raises:
        Fault: if its data is truncated, or more audio follows than declared.
    """
    layout = _layout(file.at(start, 40))
    fmt = data = ds64 = None
    last = start + layout.head
    for chunk in _chunks(file, layout, last, stop):
        last = chunk.end
        fmt = chunk if chunk.name == b"fmt " else fmt
        ds64 = chunk if chunk.name == b"ds64" else ds64
        if chunk.name == b"data":
            data = chunk
            break
    if data is None or fmt is None:
        raise Fault(f"truncated: {layout.kind} file without a data chunk: {COPY_AGAIN}")
    head = file.at(fmt.start, min(fmt.size, 40))
    if len(head) < 16 or not (any(head[2:4]) and any(head[4:8])):
        raise Fault(f"damaged: {layout.kind} file without a format chunk: {COPY_AGAIN}")
    tag, frame_bytes = _number(head[:2], layout), _number(head[12:14], layout)
    tolerated = frame_bytes if tag in PCM_TAGS else 1
    size, patches = _data_size(file, layout, data, ds64, tolerated, start, stop)
    bytes_per_second = max(1, _number(head[8:12], layout))
    end = _end(file, layout, data._replace(size=size), stop, bytes_per_second)
    if layout.kind == "BW64":  # RF64 by another name, which libsndfile does not know
        patches = ((start, b"RF64"), *patches)
    if tag in MPEG_TAGS:
        return mpeg_parts(file, data.start, data.start + size, whole=end)
    decoder = "wav" if size > UNKNOWN_32 and not layout.wide and ds64 is None else SNDFILE
    return [Part(start, end, layout.kind, decoder, patches=patches)]


def _layout(head: bytes) -> _Layout:
    if head[:16] == W64_RIFF:
        return _Layout("W64", "little", 40, True)
    kind = head[:4].decode("latin-1")
    return _Layout(
        kind="WAV" if kind == "RIFF" else kind,
        order="big" if kind == "RIFX" else "little",
        head=12,
        wide=False,
    )


def _number(data: bytes, layout: _Layout) -> int:
    return int.from_bytes(data, layout.order)  # type: ignore[arg-type]


def _chunks(file: RandomAccess, layout: _Layout, at: int, stop: int) -> Iterator[_Chunk]:
    head, align = (24, 8) if layout.wide else (8, 2)
    while at + head <= stop:
        raw = file.at(at, head)
        size_at = 16 if layout.wide else 4
        size = _number(raw[size_at:], layout) - (head if layout.wide else 0)
        size = max(0, size)
        start = at + head
        at = start + size + (-size % align)
        yield _Chunk(raw[:4], start, size, start - head + size_at, at)


def _data_size(
    file: RandomAccess,
    layout: _Layout,
    data: _Chunk,
    ds64: _Chunk | None,
    tolerated: int,
    start: int,
    stop: int,
) -> tuple[int, tuple[Patch, ...]]:
    """Number of audio bytes, and corrections of the sizes in the header."""
    there = stop - data.start
    size, size_at, wide = data.size, data.size_at, layout.wide
    if ds64 is not None and size == UNKNOWN_32:
        size, size_at, wide = _number(file.at(ds64.start + 8, 8), layout), ds64.start + 8, True
    if there > UNKNOWN_32 and not wide:
        has_wrapped = there > size and (there - size) % (UNKNOWN_32 + 1) == 0
        if has_wrapped or size in (0, UNKNOWN_32):  # FFmpeg reads it to its end
            return there, ((size_at, layout.size_bytes(there)),)
    if size <= there and not (size == 0 and there):
        return size, ()
    if size == 0 and _is_chunk_chain(file, layout, data.start, stop):
        return 0, ()
    whole = stop - start
    declared = _number(file.at(start + 4, 4), layout) + 8
    if size in (whole, whole - 8, whole - 16) and declared <= whole:  # in the wrong field
        return there, ()
    if size and size - there < tolerated:  # less than one sample of each channel
        return there, ()
    if size and not _is_unknown(size, wide):
        raise cut_off(layout.kind, size, there)
    in_data_chunk = size_at == data.size_at
    corrected = layout.size_bytes(there) if in_data_chunk else there.to_bytes(8, "little")
    return there, ((size_at, corrected),)


def _is_unknown(size: int, wide: bool) -> bool:
    if wide and size >= 1 << 62:
        return True
    return UNKNOWN_32 - 256 <= size <= UNKNOWN_32 or size in PIPE_SIZES


def _is_chunk_chain(file: RandomAccess, layout: _Layout, at: int, stop: int) -> bool:
    """Whether chunks with readable names fill the bytes [at, stop)."""
    while at < stop:
        chunk = next(_chunks(file, layout, at, stop), None)
        if chunk is None or not _is_named(chunk) or chunk.end > stop + 1:
            return False
        at = chunk.end
    return True


def _end(
    file: RandomAccess, layout: _Layout, data: _Chunk, stop: int, bytes_per_second: int
) -> int:
    """End of the file, including chunks after the audio."""
    end = data.start + data.size
    padded = end + (-data.size % (8 if layout.wide else 2))
    for chunk in _chunks(file, layout, padded, stop):
        if _is_next_file(file, padded) or not _is_named(chunk) or chunk.end > stop + 1:
            break
        padded = chunk.end
    end = min(max(padded, end), stop)
    rest = stop - end
    is_sound = not _is_next_file(file, end) and any(file.at(end, min(rest, 1 << 20)))
    if rest > LOST_SECONDS * bytes_per_second and is_sound:
        raise Fault(
            f"longer than its {layout.kind} header says: {data.size:,} bytes of audio are declared "
            f"and {rest:,} more follow: correct the header, e.g. with `sox --ignore-length`"
        )
    return end


def _is_named(chunk: _Chunk) -> bool:
    return chunk.name.isascii() and chunk.name.decode().isprintable()


def _is_next_file(file: RandomAccess, at: int) -> bool:
    """Whether another audio file or a tag begins here."""
    return begins_file_or_tag(file.at(at, 64))
