"""One recording within a file, and the length that its container declares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hear_axlstm.audio.errors import Fault
from hear_axlstm.audio.random_access import Patch

SNDFILE = "libsndfile"
COPY_AGAIN = "copy it again"
COPY_OR_REWRITE = "copy it again or, if it is complete, rewrite it (ffmpeg -i OLD -c copy NEW)"
CONVERT = "convert it, e.g. to FLAC"

Block = tuple[int, NDArray[np.float32]]
"""Sample rate and mono samples [n]."""


@dataclass(frozen=True)
class MpegFrames:
    """Positions of the frames of an MPEG stream, and which of their samples are audio."""

    offsets: Sequence[int]
    """Position of each frame in the file, without the one with the Xing header."""
    samples_per_frame: int
    rate: int
    skip: int = 0
    """Samples before the audio: the delay of encoder and decoder, if the header has it."""


@dataclass(frozen=True)
class Part:
    """One recording in a file; a concatenated file has several."""

    start: int
    stop: int
    kind: str
    """Name of the format in messages."""
    decoder: str = SNDFILE
    """`SNDFILE`, or the name of an FFmpeg demuxer."""
    frames: int | None = None
    """Samples per channel that the container declares, if it does."""
    slack: int = 0
    """Declared samples that may be missing at the end although no data is."""
    patches: tuple[Patch, ...] = ()
    """Corrections of lengths that the header leaves open."""
    mpeg: MpegFrames | None = None


def cut_off(
    kind: str, declared: int, there: int, unit: str = "bytes", remedy: str = COPY_AGAIN
) -> Fault:
    """The fault of a part that is shorter than its container declares."""
    return Fault(
        f"truncated: its {kind} header declares {declared:,} {unit}, but there are {there:,}: "
        f"{remedy}"
    )


def fewer_samples(kind: str, declared: int, there: int) -> Fault:
    """The fault of a part that decodes to fewer samples than declared."""
    return Fault(
        f"truncated or damaged: its {kind} stream has {there:,} of {declared:,} declared samples: "
        f"{COPY_AGAIN}"
    )


def not_decodable(kind: str, detail: str) -> Fault:
    """The fault of a part that a decoder rejects, with the decoder's own message."""
    detail = f" ({detail.rstrip('.')})" if detail.strip() else ""
    return Fault(
        f"not decodable: a damaged {kind} stream{detail}: copy it again or convert it to FLAC"
    )
