"""Decoding of one part of a file by FFmpeg, through PyAV.

Frames of MPEG audio are passed to FFmpeg's decoder one by one, as delimited by their headers, so
that their number does not depend on a demuxer's estimate.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

from hear_axlstm.audio.containers.mpeg import parse_frame
from hear_axlstm.audio.containers.part import (
    CONVERT,
    COPY_AGAIN,
    Block,
    MpegFrames,
    Part,
    fewer_samples,
    not_decodable,
)
from hear_axlstm.audio.errors import Fault
from hear_axlstm.audio.random_access import RandomAccess

PREROLL_FRAMES = 32  # MPEG frames decoded before the first, which may refer to them
MUTE_SHARE = 0.01  # share of MPEG frames that may be undecodable and become silence, as in players
PLANAR = {"u8p": "u1", "s16p": "i2", "s32p": "i4", "fltp": "f4", "dblp": "f8"}
INTEGERS = {"u1": (128, 128.0), "i2": (0, 2.0**15), "i4": (0, 2.0**31)}
DECLARING = {"mov", "ape", "wv", "tta"}
"""Demuxers whose duration comes from the header, not from a guess."""


class FfmpegDecoder:
    """Decoder for parts that FFmpeg demuxes and decodes."""

    def __init__(self, file: RandomAccess, part: Part) -> None:
        self.kind = part.kind
        self.frames = None
        self.position = 0
        # Without a length, the last packet is shorter than FFmpeg expects
        self._has_length = not (part.decoder == "wav" and part.patches)
        options = {} if self._has_length else {"ignore_length": "1"}
        try:
            self._file = av.open(
                file.window(part.start, part.stop, part.patches),
                mode="r",
                format=part.decoder,
                options=options,
                metadata_errors="replace",  # names of artists in any encoding
            )
        except (av.FFmpegError, ValueError) as error:
            raise not_decodable(part.kind, _detail(error)) from error
        stream = self._file.streams.best("audio")
        if not isinstance(stream, av.AudioStream):
            self._file.close()
            raise Fault(f"no audio track in this {part.kind} file: pass a file with audio")
        if stream.codec_context is None:
            self._file.close()
            raise Fault(f"not decodable: {part.kind} file with an unsupported codec: {CONVERT}")
        self._stream = stream
        stream.codec_context.options = {"err_detect": "crccheck+bitstream+buffer+explode"}
        self.rate = stream.codec_context.sample_rate or 0
        self._declared, self._slack = part.frames, 0
        if part.decoder in DECLARING and (duration := _duration(stream)) is not None:
            self._declared = round(duration * self.rate)
            self._slack = max(2048, self.rate // 10)

    def blocks(self, first: int, last: int | None) -> Iterator[Block]:
        """Samples [first, last) of the mean of all channels."""
        is_whole = True
        try:
            with self._file as file:
                for frame in self._frames(file):
                    mono = _mono(frame)
                    low, high = max(0, first - self.position), len(mono)
                    if last is not None:
                        high = min(high, last - self.position)
                    self.position += len(mono)
                    if low < high:
                        yield frame.sample_rate, mono[low:high]
                    if last is not None and self.position >= last:
                        is_whole = False
                        break
        except (av.FFmpegError, ValueError) as error:
            raise not_decodable(self.kind, _detail(error)) from error
        declared = self._declared
        if is_whole and declared is not None and self.position < declared - self._slack:
            raise fewer_samples(self.kind, declared, self.position)

    def _frames(self, file: av.container.InputContainer) -> Iterator[av.AudioFrame]:
        """All frames; raises if the last packet is incomplete."""
        is_cut = False
        for packet in file.demux(self._stream):
            is_cut = packet.is_corrupt if packet.size else is_cut  # empty ones end the stream
            yield from packet.decode()
        if is_cut and self._has_length:
            raise Fault(f"truncated within a packet of its {self.kind} stream: {COPY_AGAIN}")


def _duration(stream: av.AudioStream) -> Fraction | None:
    if stream.duration is None or stream.time_base is None:
        return None
    return stream.duration * stream.time_base


def _detail(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _mono(frame: av.AudioFrame) -> NDArray[np.float32]:
    if frame.format.is_planar:
        # Of 8 channels, PyAV lists planes beyond the last one: to_ndarray would read them
        kind, own = PLANAR[frame.format.name], frame.planes[: frame.layout.nb_channels]
        channels = [np.frombuffer(memoryview(plane), kind, frame.samples) for plane in own]
    else:
        channels = list(frame.to_ndarray().reshape(frame.samples, -1).T)
    dtype = channels[0].dtype
    if dtype.kind == "f":
        mono = channels[0] if len(channels) == 1 else np.mean(channels, axis=0)
        return mono.astype(np.float32, copy=False)
    zero, full = INTEGERS[dtype.str[1:]]
    return ((np.mean(channels, axis=0) - zero) / full).astype(np.float32)


class MpegDecoder:
    """Decoder for MPEG audio, frame by frame."""

    def __init__(self, file: RandomAccess, part: Part, mpeg: MpegFrames) -> None:
        self.kind, self.rate = part.kind, mpeg.rate
        self._access, self._part, self._mpeg = file, part, mpeg
        self.frames: int = part.frames or 0
        self.position = 0

    def blocks(self, first: int, last: int | None) -> Iterator[Block]:
        """Samples [first, last) of the mean of all channels."""
        mpeg, total = self._mpeg, self.frames
        last = total if last is None else min(last, total)
        # Counted in frames from here on, the encoder's delay included
        first, last = first + mpeg.skip, last + mpeg.skip
        size = mpeg.samples_per_frame
        number = max(0, first // size - PREROLL_FRAMES)
        for mono in self._decoded(number, -(-last // size)):
            position = number * size
            low, high = max(0, first - position), min(size, last - position)
            if low < high:
                self.position = position + high - mpeg.skip
                yield self.rate, mono[low:high]
            number += 1

    def _decoded(self, first: int, last: int) -> Iterator[NDArray[np.float32]]:
        """One block for each frame in [first, last), silence for undecodable ones."""
        mpeg = self._mpeg
        codec = av.AudioCodecContext.create(self._part.decoder, "r")
        assert isinstance(codec, av.AudioCodecContext)
        silence = np.zeros(mpeg.samples_per_frame, np.float32)
        muted = 0
        for number in range(first, last):
            frames: list[av.AudioFrame] = []
            with suppress(av.FFmpegError):
                frames = codec.decode(av.Packet(self._bytes(number)))
            mono = _mono(frames[0]) if frames else silence
            if len(mono) != mpeg.samples_per_frame:
                frames, mono = [], silence
            muted += not frames and number > PREROLL_FRAMES  # the first may refer to others
            yield mono
        if muted > MUTE_SHARE * (last - first):
            raise Fault(
                f"damaged: {muted:,} of {last - first:,} {self.kind} frames can't be decoded: "
                f"{COPY_AGAIN}"
            )

    def _bytes(self, number: int) -> bytes:
        start = self._mpeg.offsets[number]
        frame = parse_frame(self._access.at(start, 4))
        return self._access.at(start, frame.size if frame else 0)
