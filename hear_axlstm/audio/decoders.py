"""Decoders for one part of a file, yielding mono blocks.

libsndfile decodes WAV and its relatives, AIFF, AU, CAF, FLAC and Ogg; FFmpeg decodes the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import soundfile

from hear_axlstm.audio.containers.part import (
    SNDFILE,
    Block,
    Part,
    fewer_samples,
    not_decodable,
)
from hear_axlstm.audio.random_access import RandomAccess

BLOCK_SAMPLES = 1 << 20  # decoded at once, over all channels
SECOND_CHOICE = {
    "WAV": "wav",
    "RF64": "wav",
    "W64": "w64",
    "AIFF": "aiff",
    "AIFF-C": "aiff",
    "CAF": "caf",
    "VOC": "voc",
}
SECOND_CHOICE |= {"BW64": "wav", "AU": "au", "FLAC": "flac"}
SECOND_CHOICE |= {"Ogg Vorbis": "ogg", "Ogg Opus": "ogg", "Ogg FLAC": "ogg"}
"""FFmpeg demuxers for codecs and variants that libsndfile does not have."""


class Decoder(Protocol):
    """Decoder of one part of a file."""

    rate: int
    position: int
    """Samples per channel decoded so far."""

    @property
    def frames(self) -> int | None:
        """Number of samples per channel, if known in advance."""

    def blocks(self, first: int, last: int | None) -> Iterator[Block]:
        """Samples [first, last) of the mean of all channels."""


def open_part(file: RandomAccess, part: Part) -> Decoder:
    """Open the decoder for a part.

    Raises:
        Fault: if no decoder supports the part.
    """
    if part.decoder == SNDFILE:
        try:
            return SndfileDecoder(file, part)
        except soundfile.LibsndfileError as error:
            if part.kind not in SECOND_CHOICE:
                raise not_decodable(part.kind, error.error_string) from error
            return _second_choice(file, part)
    from hear_axlstm.audio.ffmpeg import FfmpegDecoder, MpegDecoder

    return FfmpegDecoder(file, part) if part.mpeg is None else MpegDecoder(file, part, part.mpeg)


def _second_choice(file: RandomAccess, part: Part) -> Decoder:
    return open_part(file, replace(part, decoder=SECOND_CHOICE[part.kind]))


class SndfileDecoder:
    """Decoder for parts that libsndfile reads."""

    def __init__(self, file: RandomAccess, part: Part) -> None:
        self._access, self._part = file, part
        self._file = soundfile.SoundFile(file.window(part.start, part.stop, part.patches))
        self.rate: int = self._file.samplerate
        self.position = 0
        # The header's number is checked: `blocks` must yield as many samples
        self.frames: int = max(part.frames or 0, self._file.frames)

    def blocks(self, first: int, last: int | None) -> Iterator[Block]:
        """Samples [first, last) of the mean of all channels."""
        last = self.frames if last is None else min(last, self.frames)
        try:
            with self._file as file:
                self.position = first
                if first or file.subtype == "OPUS":
                    file.seek(first)  # also to 0: it drops what the encoder put before the start
                step = max(1, BLOCK_SAMPLES // file.channels)
                while self.position < last:
                    count = min(step, last - self.position)
                    samples = file.read(count, dtype="float32", always_2d=True)
                    if not len(samples):
                        if self._part.slack >= last - self.position:
                            break
                        raise fewer_samples(self._part.kind, self.frames, self.position)
                    self.position += len(samples)
                    yield self.rate, samples.mean(axis=1)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            if self._part.kind not in SECOND_CHOICE:
                detail = getattr(error, "error_string", "")
                raise not_decodable(self._part.kind, detail) from error
            yield from _second_choice(self._access, self._part).blocks(self.position, last)
