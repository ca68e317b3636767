"""Audio of tasks: what is incomplete or of unknown length is refused in one line with the path."""

import struct
from pathlib import Path

import numpy as np
import pytest

from hearbench.audio import AudioError, load_audio, prefetch
from tests.helpers.sound_files import encode, noise

WAV = encode(noise(2), "WAV")
FLAC = bytearray(encode(noise(2), "FLAC"))


def with_size(size: int) -> bytes:
    return WAV[:40] + struct.pack("<I", size) + WAV[44:]


def flac_of_unknown_length() -> bytes:
    return bytes(FLAC[:21]) + bytes([FLAC[21] & 0xF0]) + bytes(4) + bytes(FLAC[26:])


BROKEN = {
    "cut.wav": (WAV[:20_000], "truncated, its header declares more"),
    "header.wav": (WAV[:30], "copy it again"),
    "zero.wav": (with_size(0), "declares 0 bytes"),
    "cut.flac": (bytes(FLAC[:20_000]), "copy it again"),
    "unknown.flac": (flac_of_unknown_length(), "does not declare its length"),
    "a.ogg": (encode(noise(), "OGG", "VORBIS"), "OGG is not supported: convert it to WAV"),
    "a.mp3": (encode(noise(), "MP3"), "MP3 is not supported: convert it to WAV"),
    "a.aiff": (encode(noise(), "AIFF"), "AIFF is not supported: convert it to WAV"),
    "page.wav": (b"<html>not found</html>", "not decodable"),
    "empty.wav": (b"", "not decodable"),
    "nan.wav": (encode(np.array([0.1, np.nan]), "WAV", "FLOAT"), "NaN"),
    "nothing.wav": (encode(np.zeros(0), "WAV"), "contains no audio"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_complete_is_named(name: str, tmp_path: Path) -> None:
    data, reason = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(AudioError, match=reason) as raised:
        load_audio(tmp_path / name, 16_000)
    assert str(tmp_path / name) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "data", [WAV, encode(noise(2), "WAVEX"), bytes(FLAC), with_size(0xFFFFFFFF)]
)
def test_what_is_complete_is_decoded(data: bytes) -> None:
    assert load_audio(data, 16_000).size == pytest.approx(32_000, abs=10)


def test_missing_files_and_odd_names(tmp_path: Path) -> None:
    (tmp_path / "a\nb ü.wav").write_bytes(WAV)
    assert load_audio(tmp_path / "a\nb ü.wav", 16_000).size == 32_000
    with pytest.raises(AudioError, match=r"gone\.wav: not decodable \(.*No such file"):
        load_audio(tmp_path / "gone.wav", 16_000)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_prefetched_batches_are_in_order(count: int) -> None:
    assert list(prefetch(range(10).__getitem__, count)) == list(range(count))
