"""Sound files as bytes: encoded by libsndfile and FFmpeg, and damaged on purpose."""

import io
import struct

import av
import numpy as np
import soundfile

RATE = 16_000


def noise(seconds: float = 1.0, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """White noise at a tenth of full scale, float64 [n]."""
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate)).clip(-3, 3)


def encode(
    samples: np.ndarray,
    container: str,
    codec: str | None = None,
    rate: int = RATE,
    **how: object,
) -> bytes:
    """A file by libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=codec, **how)
    return file.getvalue()


def encode_by_ffmpeg(
    samples: np.ndarray, container: str, codec: str, rate: int = RATE, layout: str = "mono"
) -> bytes:
    """A file by FFmpeg, with the same samples in all channels."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 64_000 * stream.layout.nb_channels
        interleaved = np.repeat(samples.astype("f4"), stream.layout.nb_channels)[None]
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return file.getvalue()


def without_xing(mp3: bytes) -> bytes:
    """An MP3 without its first frame, which says how long it is: as a pipe gets it."""
    tag = min(at for at in (mp3.find(b"Xing"), mp3.find(b"Info")) if at >= 0)
    start = mp3.rfind(mp3[:2], 0, tag)
    return mp3[mp3.index(mp3[start : start + 2], tag) :]


def ogg_pages(ogg: bytes) -> list[bytes]:
    """The pages of an Ogg file."""
    starts, at = [], 0
    while at < len(ogg):
        starts.append(at)
        table = ogg[at + 27 : at + 27 + ogg[at + 26]]
        at += 27 + len(table) + sum(table)
    return [ogg[a:b] for a, b in zip(starts, [*starts[1:], at], strict=True)]


def id3v2(content: bytes) -> bytes:
    """An ID3v2.3 tag with that content, whatever it means."""
    size = bytes(len(content) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\x00\x00" + size + content


def ape_tag(content: bytes) -> bytes:
    """An APEv2 tag, with head and foot."""
    size = struct.pack("<II", len(content) + 32, 1)
    ends = [b"APETAGEX" + struct.pack("<I", 2000) + size + flags + bytes(8)
            for flags in (b"\0\0\0\xa0", b"\0\0\0\x80")]  # fmt: skip
    return ends[0] + content + ends[1]
