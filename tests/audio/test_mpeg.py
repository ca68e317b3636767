"""MP3 files as they are met: without a length, between tags, joined, cut off."""

import io
import time
from contextlib import suppress

import av
import numpy as np
import pytest

from hear_axlstm.audio.errors import AudioError
from hear_axlstm.audio.io import load_audio
from tests.helpers.sound_files import ape_tag, encode, id3v2, noise, without_xing

SECONDS = 3
FRAME = 576  # samples of an MP3 frame at 16 kHz


def mp3(mode: str = "CONSTANT", seed: int = 0, rate: int = 16_000) -> bytes:
    sound = noise(SECONDS, seed, rate)
    sound[len(sound) // 2 :] *= 0.001  # a varying bit rate varies
    return encode(sound, "MP3", rate=rate, bitrate_mode=mode, compression_level=0.3)


def by_ffmpeg(data: bytes) -> np.ndarray:
    """What FFmpeg's own demuxer and decoder give."""
    with av.open(io.BytesIO(data), format="mp3") as file:
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_whole_file_with_and_without_its_length(mode: str) -> None:
    data = mp3(mode)
    assert load_audio(data).size == SECONDS * 16_000  # the encoder's delay is cut off
    np.testing.assert_allclose(load_audio(data), by_ffmpeg(data), atol=1e-6)
    bare = without_xing(data)
    np.testing.assert_allclose(load_audio(bare), by_ffmpeg(bare), atol=1e-6)


JUNK = bytes(range(256)) * 300  # holds 0xFF, as a picture does
AROUND = {
    "ID3v2": (id3v2(JUNK), b""),
    "two ID3v2": (id3v2(JUNK) + id3v2(b"\0" * 100), b""),
    "ID3v2 that lies about its size": (id3v2(JUNK)[:6] + b"\0\0\0\x05" + JUNK, b""),
    "ID3v1": (b"", b"TAG" + b"title".ljust(125, b"\0")),
    "APE": (b"", ape_tag(JUNK)),
    "APE and ID3v1": (b"", ape_tag(JUNK) + b"TAG" + b"title".ljust(125, b"\0")),
    "junk before": (JUNK, b""),
    "zeros around": (bytes(5000), bytes(5000)),
    "part of a frame after": (b"", mp3()[:50]),
}


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("bare", [True, False])
def test_tags_and_junk_are_no_sound(name: str, bare: bool) -> None:
    data = without_xing(mp3()) if bare else mp3()
    before, after = AROUND[name]
    np.testing.assert_array_equal(load_audio(before + data + after), load_audio(data))


@pytest.mark.parametrize("between", [b"", id3v2(JUNK), b"TAG".ljust(128, b"\0"), JUNK])
def test_joined_files_give_both(between: bytes) -> None:
    first, second = mp3(), mp3("VARIABLE", seed=1)
    both = np.concatenate([load_audio(first), load_audio(second)])
    np.testing.assert_array_equal(load_audio(first + between + second), both)
    joined = load_audio(first + between + without_xing(second))
    assert abs(joined.size - both.size) <= 4 * FRAME


def test_joined_files_of_two_rates() -> None:
    first, second = mp3(), mp3(rate=44_100)
    samples = load_audio(first + second)
    assert samples.size == 2 * SECONDS * 16_000
    np.testing.assert_array_equal(samples[: SECONDS * 16_000], load_audio(first))


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("percent", [10, 37, 50, 80, 96])
def test_fewer_frames_than_declared_is_cut_off(mode: str, percent: int) -> None:
    data = mp3(mode)
    with pytest.raises(AudioError, match=r"truncated.*declares .* frames"):
        load_audio(data[: len(data) * percent // 100])
    # without a declared number, every frame counts
    bare = without_xing(data)[: len(data) * percent // 100]
    assert load_audio(bare).size % FRAME == 0
    with pytest.raises(AudioError, match="truncated"):  # the second of two
        load_audio(data + data[: len(data) * percent // 100])


def test_span_equals_the_same_samples_of_the_whole() -> None:
    data = mp3("VARIABLE")
    for file in (data, without_xing(data), data + data):
        whole = load_audio(file)
        for start, end in ((0.0, 0.1), (1.3, 2.1), (2.5, 9.0)):
            span = load_audio(file, start=start, end=end)
            expected = whole[round(start * 16_000) : round(end * 16_000)]
            np.testing.assert_allclose(span, expected, atol=1e-6)


def test_mp3_within_wav() -> None:
    data = without_xing(mp3())
    fmt = b"fmt " + (30).to_bytes(4, "little") + bytes.fromhex("55000100803e0000a00f00000100")
    fmt += bytes.fromhex("00000c00010002000000480001000000")
    body = b"WAVE" + fmt + b"data" + len(data).to_bytes(4, "little") + data
    wav = b"RIFF" + len(body).to_bytes(4, "little") + body
    np.testing.assert_array_equal(load_audio(wav), load_audio(data))
    with pytest.raises(AudioError, match="truncated"):
        load_audio(wav[: len(wav) // 2])


def test_nothing_reaches_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    damaged = bytearray(mp3())
    damaged[3000:5000:7] = bytes(len(damaged[3000:5000:7]))
    for data in (bytes(damaged), JUNK + without_xing(mp3())):
        with suppress(AudioError):
            load_audio(data)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("pattern", [b"\xff", b"\xff\xfb", b"\xff\xfb\x90\0"])
def test_what_looks_like_frames_all_over_is_given_up(pattern: bytes) -> None:
    start = time.process_time()
    with pytest.raises(AudioError, match="unknown audio format"):
        load_audio(pattern * ((1 << 22) // len(pattern)))
    assert time.process_time() - start < 20
