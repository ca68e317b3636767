"""One sound within a file, and what its container promises of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hear_axlstm.audio.errors import Fault
from hear_axlstm.audio.random_access import Patch

SNDFILE = "libsndfile"
COPY_AGAIN = "copy it again"
COPY_OR_REWRITE = "copy it again or, if it is whole, rewrite it (ffmpeg -i OLD -c copy NEW)"

Block = tuple[int, NDArray[np.float32]]
"""Sample rate, and samples of one channel, [n]."""


@dataclass(frozen=True)
class MpegFrames:
    """Where the frames of an MPEG stream lie, and which of their samples are sound."""

    offsets: Sequence[int]
    """Position of each frame in the file, the one with the Xing header left out."""
    samples_per_frame: int
    rate: int
    skip: int = 0
    """Samples before the sound: the delay of encoder and decoder, where the header names it."""
    padding: int = 0
    """Samples after it."""


@dataclass(frozen=True)
class Part:
    """One sound in a file. A file holds one, a joined file several."""

    start: int
    stop: int
    kind: str
    """Name of the format in messages."""
    decoder: str = SNDFILE
    """`SNDFILE`, or the FFmpeg demuxer that reads it."""
    frames: int | None = None
    """Samples per channel that the container promises; None where it promises nothing."""
    slack: int = 0
    """Samples that may be missing at the end all the same, where all data are known to be there."""
    patches: tuple[Patch, ...] = ()
    """Lengths in the header, put right where the header leaves them open."""
    mpeg: MpegFrames | None = None


def cut_off(
    kind: str, declared: int, there: int, unit: str = "bytes", remedy: str = COPY_AGAIN
) -> Fault:
    """The fault of a part that is shorter than its container promises."""
    return Fault(
        f"truncated: its {kind} header promises {declared:,} {unit}, {there:,} are there: {remedy}"
    )


def fewer_samples(kind: str, declared: int, there: int) -> Fault:
    """The fault of a part that gives fewer samples than were declared."""
    return Fault(
        f"truncated or damaged: {there:,} of the {declared:,} samples of its {kind} stream are "
        f"there: {COPY_AGAIN}"
    )


def not_decodable(kind: str, detail: str) -> Fault:
    """The fault of a part whose data a decoder refuses, with the decoder's own words."""
    detail = f" ({detail.rstrip('.')})" if detail.strip() else ""
    return Fault(
        f"not decodable: a damaged {kind} stream{detail}: copy it again or convert it to FLAC"
    )
