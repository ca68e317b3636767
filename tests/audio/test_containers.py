"""Declared length against the data: truncated, of unknown length, concatenated."""

import io
import struct
from collections.abc import Callable

import av
import numpy as np
import pytest
import soundfile

from hear_axlstm.audio.containers import riff
from hear_axlstm.audio.containers.flac import CRC_8, _crc
from hear_axlstm.audio.errors import AudioError
from hear_axlstm.audio.io import load_audio
from tests.helpers.sound_files import encode, encode_by_ffmpeg, noise, ogg_pages

KINDS = [
    ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("WAV", "ULAW"),
    ("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("W64", "FLOAT"),
    ("AIFF", "PCM_16"), ("AIFF", "FLOAT"), ("AU", "PCM_16"), ("AU", "FLOAT"), ("CAF", "PCM_16"),
    ("CAF", "ALAC_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"),
    ("OGG", "OPUS"), ("NIST", "PCM_16"), ("SVX", "PCM_16"), ("VOC", "PCM_16"),
]  # fmt: skip
BY_FFMPEG = [
    ("mp4", "aac"), ("ipod", "alac"), ("matroska", "aac"), ("webm", "libopus"), ("asf", "wmav2"),
    ("tta", "tta"), ("adts", "aac"), ("ac3", "ac3"), ("eac3", "eac3"), ("flv", "aac"),
    ("avi", "libmp3lame"), ("mpegts", "aac"), ("wv", "wavpack"),
]  # fmt: skip
LOSSLESS = {"alac", "tta", "wavpack"}
SECONDS = 3


@pytest.mark.parametrize(("container", "codec"), KINDS)
def test_cut_off_anywhere(container: str, codec: str) -> None:
    data = encode(noise(SECONDS), container, codec)
    whole = load_audio(data)
    assert abs(whole.size - SECONDS * 16_000) < 1_000
    for percent in (1, 5, 20, 45, 50, 77, 90, 97, 99):
        with pytest.raises(AudioError, match=r"truncated|damaged|no samples"):
            load_audio(data[: len(data) * percent // 100])


@pytest.mark.parametrize(("container", "codec"), BY_FFMPEG)
def test_ffmpeg_formats_whole_and_cut_off(container: str, codec: str) -> None:
    sound = noise(SECONDS, rate=48_000)
    data = encode_by_ffmpeg(sound, container, codec, rate=48_000)
    whole, expected = load_audio(data), load_audio(encode(sound, "WAV", rate=48_000))
    assert abs(whole.size - expected.size) < 1600
    assert whole.std() == pytest.approx(expected.std(), rel=0.2)
    if codec in LOSSLESS:
        np.testing.assert_allclose(
            whole[:40_000], expected[:40_000], atol=6e-3
        )  # FFmpeg may take 8 bits
    for percent in (5, 50, 90):  # 7 bytes less, so as not to end with a frame
        with pytest.raises(AudioError, match=r"truncated|damaged|without its"):
            load_audio(data[: len(data) * percent // 100 - 7])


def size_at(container: str) -> tuple[Callable[[bytes], int], str, int]:
    """Where a header has the size of its sound, in which form, and how much that counts extra."""
    return {
        "WAV": (lambda data: data.index(b"data") + 4, "<I", 0),
        "RF64": (lambda data: data.index(b"ds64") + 16, "<Q", 0),
        "W64": (lambda data: data.index(b"data\xf3\xac") + 16, "<Q", 24),
        "AIFF": (lambda data: data.index(b"SSND") + 4, ">I", 0),
        "AU": (lambda data: 8, ">I", 0),
        "CAF": (lambda data: data.index(b"data") + 4, ">q", 0),
    }[container]


UNKNOWN = {
    "WAV": (0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF - 36), "RF64": (0, 2**64 - 1),
    "W64": (24, 0, 2**63 - 1), "AIFF": (0,), "AU": (0, 0xFFFFFFFF), "CAF": (-1, 0),
}  # fmt: skip


@pytest.mark.parametrize(
    ("container", "size"), [(c, s) for c, all_ in UNKNOWN.items() for s in all_]
)
@pytest.mark.parametrize("codec", ["PCM_16", "FLOAT"])
def test_unknown_length_is_read_to_the_end(container: str, size: int, codec: str) -> None:
    data = bytearray(encode(noise(SECONDS), container, codec))
    expected = load_audio(bytes(data))
    find, form, _ = size_at(container)
    struct.pack_into(form, data, find(bytes(data)), size)
    if container in ("WAV", "AIFF"):
        struct.pack_into("<I" if container == "WAV" else ">I", data, 4, 0)
    if container == "AIFF":
        struct.pack_into(">I", data, data.index(b"COMM") + 10, 0)
    samples = load_audio(bytes(data))
    # a chunk behind the sound may count as some samples of it
    assert 0 <= samples.size - expected.size < 50
    np.testing.assert_array_equal(samples[: expected.size], expected)


@pytest.mark.parametrize("size", [80_000 % 0x10000, 0, 0xFFFF])
def test_wav_that_is_longer_than_its_header_can_say(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(encode(noise(2.5), "WAV", "PCM_16"))
    expected = load_audio(bytes(data))
    monkeypatch.setattr(riff, "UNKNOWN_32", 0xFFFF)  # 64 KiB instead of 4 GiB
    struct.pack_into("<I", data, data.index(b"data") + 4, size)
    np.testing.assert_array_equal(load_audio(bytes(data)), expected)
    np.testing.assert_array_equal(load_audio(bytes(data), start=2), expected[32_000:])


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_wav_of_unknown_length_with_a_codec_of_ffmpeg(size: int) -> None:
    data = bytearray(encode_by_ffmpeg(noise(SECONDS), "wav", "g722"))
    whole = load_audio(bytes(data))
    struct.pack_into("<I", data, data.index(b"data") + 4, size)
    assert 0 <= load_audio(bytes(data)).size - whole.size < 50


def test_caf_with_a_chunk_of_some_program() -> None:
    data = encode(noise(SECONDS), "CAF", "PCM_16")
    at = data.index(b"data")
    own = b"abcd" + struct.pack(">q", 6) + b"foobar"
    np.testing.assert_array_equal(load_audio(data[:at] + own + data[at:]), load_audio(data))
    corrupt = data[:at] + b"data" + struct.pack(">q", 2**63 - 1) + data[at + 12 :]
    with pytest.raises(AudioError, match="truncated: its CAF header declares"):
        load_audio(corrupt)


def test_flac_of_unknown_length() -> None:
    data = bytearray(encode(noise(SECONDS), "FLAC"))
    expected = load_audio(bytes(data))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    np.testing.assert_array_equal(load_audio(bytes(data)), expected)
    np.testing.assert_array_equal(load_audio(bytes(data), start=1, end=2), expected[16_000:32_000])
    with pytest.raises(AudioError):
        load_audio(bytes(data[: len(data) // 2]))
    for at in range(2_000, len(data), 9_000):
        flipped = data.copy()
        flipped[at] ^= 8
        with pytest.raises(AudioError):
            load_audio(bytes(flipped))


def test_flac_that_libsndfile_gives_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(noise(SECONDS), "FLAC")
    expected, read = load_audio(data), soundfile.SoundFile.read

    def fail_later(file: soundfile.SoundFile, *args: object, **how: object) -> np.ndarray:
        if file.tell() >= 8_000:
            raise soundfile.LibsndfileError(0, "no luck: ")
        return read(file, *args, **how)

    monkeypatch.setattr(soundfile.SoundFile, "read", fail_later)
    monkeypatch.setattr("hear_axlstm.audio.decoders.BLOCK_SAMPLES", 4_000)
    np.testing.assert_array_equal(load_audio(data), expected)
    np.testing.assert_array_equal(load_audio(data, start=1, end=2), expected[16_000:32_000])
    for stop in (len(data) // 2, len(data) - 1, data.rindex(b"\xff\xf8")):
        with pytest.raises(AudioError):
            load_audio(data[:stop])


def test_cut_off_flac_of_tiny_frames_takes_no_time() -> None:
    data = encode(noise(), "FLAC")
    head = bytes([0xFF, 0xF9, 0x65, 0x08, 0, 0])  # one sample, of 16 bits in one channel
    crc = next(bytes([n]) for n in range(256) if _crc(head + bytes([n]), *CRC_8) == 0)
    frames = (head + crc + b"\1") * 100_000
    with pytest.raises(AudioError):
        load_audio(data[: data.index(b"\xff\xf8")] + frames)


def test_webm_of_unknown_length() -> None:
    data = bytearray(encode_by_ffmpeg(noise(SECONDS, rate=48_000), "webm", "libopus", rate=48_000))
    expected = load_audio(bytes(data))
    at = data.index(b"\x18S\x80g") + 4
    data[at : at + 8] = b"\x01" + b"\xff" * 7
    np.testing.assert_array_equal(load_audio(bytes(data)), expected)
    for percent in (30, 50, 90):
        with pytest.raises(AudioError, match="truncated within an element"):
            load_audio(bytes(data[: len(data) * percent // 100]))


def test_bw64_is_read_as_rf64() -> None:
    data = encode(noise(), "RF64")
    np.testing.assert_array_equal(load_audio(b"BW64" + data[4:]), load_audio(data))


def test_wav_that_lost_as_many_bytes_as_its_header_has() -> None:
    data = encode(noise(), "WAV")
    for lost in (28, 36, 44):
        with pytest.raises(AudioError, match="truncated"):
            load_audio(data[:-lost])


def test_header_without_sound_is_empty_and_not_a_chunk_of_notes() -> None:
    data = encode(np.zeros(0), "WAV") + b"LIST" + struct.pack("<I", 8) + b"INFOabcd"
    with pytest.raises(AudioError, match="no samples"):
        load_audio(data)


def test_sound_behind_the_declared_end_is_reported() -> None:
    data = bytearray(encode(noise(SECONDS), "WAV"))
    struct.pack_into("<I", data, data.index(b"data") + 4, 16_000)
    with pytest.raises(AudioError, match=r"16,000 bytes of audio are declared and 80,000 more"):
        load_audio(bytes(data))
    zeros = encode(noise(), "WAV") + bytes(100_000)
    assert load_audio(zeros).size == 16_000


JOINED = [kind for kind in KINDS if kind[1] not in ("IMA_ADPCM", "ULAW")]


@pytest.mark.parametrize(("container", "codec"), JOINED)
def test_joined_files_give_both(container: str, codec: str) -> None:
    first = encode(noise(1, seed=1), container, codec)
    second = encode(noise(1.5, seed=2), container, codec)
    both = np.concatenate([load_audio(first), load_audio(second)])
    np.testing.assert_array_equal(load_audio(first + second), both)
    np.testing.assert_array_equal(
        load_audio(first + second, start=0.75, end=1.5), both[12_000:24_000]
    )
    with pytest.raises(AudioError, match=r"truncated|damaged"):
        load_audio(first + second[: len(second) // 2])


def test_joined_files_of_two_formats_and_rates() -> None:
    first = encode(noise(), "WAV")
    second = encode(noise(2, rate=44_100), "OGG", "VORBIS", rate=44_100)
    samples = load_audio(first + second)
    assert samples.size == 3 * 16_000
    np.testing.assert_array_equal(samples[:16_000], load_audio(first))


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
def test_lost_and_damaged_pages_of_ogg(codec: str) -> None:
    data = encode(noise(8), "OGG", codec)
    pages = ogg_pages(data)
    assert len(pages) > 5
    for lost in range(3, len(pages) - 1):
        with pytest.raises(AudioError, match="pages are lost"):
            load_audio(b"".join(pages[:lost] + pages[lost + 1 :]))
    with pytest.raises(AudioError, match="truncated"):
        load_audio(b"".join(pages[:-1]))
    for at in range(100, len(data), len(data) // 15):
        flipped = bytearray(data)
        flipped[at] ^= 1
        with pytest.raises(AudioError, match=r"damaged|truncated|lost"):
            load_audio(bytes(flipped))


def test_opus_copied_from_webm_starts_at_its_first_sample() -> None:
    webm, ogg = (
        encode_by_ffmpeg(noise(2, rate=48_000), "webm", "libopus", rate=48_000),
        io.BytesIO(),
    )
    with av.open(io.BytesIO(webm)) as file, av.open(ogg, "w", format="ogg") as copy:
        stream = copy.add_stream_from_template(file.streams.audio[0])
        for packet in file.demux(file.streams.audio[0]):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    with av.open(io.BytesIO(ogg.getvalue())) as file:
        expected = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
    found = load_audio(ogg.getvalue(), 48_000)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("container", "codec"), BY_FFMPEG[:-1])
def test_joined_files_that_ffmpeg_reads_give_both(container: str, codec: str) -> None:
    data = encode_by_ffmpeg(noise(SECONDS, rate=48_000), container, codec, rate=48_000)
    assert load_audio(data + data).size == pytest.approx(2 * load_audio(data).size, abs=100)
