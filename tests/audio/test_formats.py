"""What is found where sound was expected."""

import io
from pathlib import Path

import av
import numpy as np
import pytest

from hear_axlstm.audio.errors import AudioError
from hear_axlstm.audio.formats import AUDIO_SUFFIXES, OTHER_AUDIO_SUFFIXES
from hear_axlstm.audio.io import load_audio
from tests.helpers.sound_files import encode, encode_by_ffmpeg, noise

OTHERS = {
    "HTML": b"<!DOCTYPE html><title>404</title>" + b" " * 200,
    "page with blanks": b"\xef\xbb\xbf\n <HTML><body>Not found</body></HTML>",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "git-annex": b"/annex/objects/SHA256E-s123--abc.wav\n",
    "JSON": b'{"message": "Not Found"}',
    "XML": b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>',
    "text": "a Gurke is no sound, ä either".encode() * 9,
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20,
    "JPEG": b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(range(256)) * 20,
    "WebP": b"RIFF\x24\0\0\0WEBPVP8 " + bytes(range(256)),
    "ZIP": b"PK\3\4" + bytes(range(256)) * 20,
    "gzip": b"\x1f\x8b\x08" + bytes(range(256)) * 20,
    "MIDI": b"MThd\0\0\0\6" + bytes(100),
    "zeros": bytes(10_000),
    "NumPy": b"\x93NUMPY\1\0v\0{'descr'" + bytes(100),
    "bytes": bytes(range(256)) * 50,
    "text in UTF-16": "not audio either".encode("utf-16"),
    "tar": b"a.txt".ljust(257, b"\0") + b"ustar" + bytes(600),
}
WORDS = {
    "page with blanks": "web page", "HTML": "web page", "zeros": "zero bytes",
    "bytes": "unknown audio format", "git-annex": "git annex get",
    "Git LFS": "git lfs pull", "ZIP": "unpack", "MIDI": "render",
    "text in UTF-16": "text, not audio",
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_sound_is_named(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "song.mp3").write_bytes(OTHERS[name])
    with pytest.raises(AudioError, match=WORDS.get(name, name)) as raised:
        load_audio(tmp_path / "song.mp3")
    assert "\n" not in str(raised.value) and "remove" not in str(raised.value)


def test_a_format_is_known_by_its_content_not_by_its_name(tmp_path: Path) -> None:
    for data in (encode_by_ffmpeg(noise(), "adts", "aac"), encode_by_ffmpeg(noise(), "mp4", "aac")):
        (tmp_path / "aac.mp3").write_bytes(data)
        assert load_audio(tmp_path / "aac.mp3").size == pytest.approx(16_000, abs=3_000)
    (tmp_path / "wav.flac").write_bytes(encode(noise(), "WAV"))
    assert load_audio(tmp_path / "wav.flac").size == 16_000


def test_a_damaged_mp4_is_named(tmp_path: Path) -> None:
    (tmp_path / "aac.mp3").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(20) + bytes(range(256)) * 40)
    with pytest.raises(AudioError, match=r"MP4 file \(M4A: AAC"):
        load_audio(tmp_path / "aac.mp3")


def test_names_of_artists_in_any_encoding() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        output.metadata["title"] = "Caf\u00e9 noir"
        stream = output.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), "f4"), "fltp", "mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    name = "Caf\u00e9".encode()
    assert name in file.getvalue()
    assert load_audio(file.getvalue().replace(name, b"Caf\xe9 ")).size >= 16_000


def test_a_tag_alone_is_named() -> None:
    for tag in (b"ID3\3\0\0\0\0\0\x14" + b"TALB" + bytes(16), b"TAG" + bytes(125)):
        with pytest.raises(AudioError, match="a tag without audio"):
            load_audio(tag)


def test_endings_are_in_one_list_only() -> None:
    assert not AUDIO_SUFFIXES & OTHER_AUDIO_SUFFIXES
    assert {".wav", ".flac", ".mp3", ".m4a", ".webm", ".wma", ".mp4"} <= AUDIO_SUFFIXES


@pytest.mark.parametrize(
    ("container", "codec"),
    [("avi", "libmp3lame"), ("flv", "aac"), ("mpegts", "aac"), ("ac3", "ac3"), ("mp2", "mp2")],
)
def test_sound_of_other_containers(container: str, codec: str) -> None:
    data = encode_by_ffmpeg(noise(2, rate=48_000), container, codec, rate=48_000)
    assert load_audio(data).size == pytest.approx(32_000, abs=2_000)


@pytest.mark.parametrize(
    ("container", "codec"), [("adts", "aac"), ("ipod", "aac"), ("wv", "wavpack")]
)
def test_all_channels_of_surround_sound_are_averaged(container: str, codec: str) -> None:
    samples = noise(2, rate=48_000)
    mono, surround = (
        load_audio(encode_by_ffmpeg(samples, container, codec, 48_000, layout))
        for layout in ("mono", "7.1")
    )
    assert mono.size == surround.size
    assert np.corrcoef(mono, surround)[0, 1] > 0.5  # one of the channels is for low frequencies
    assert np.std(surround) == pytest.approx(np.std(mono), rel=0.3)


def test_older_formats_of_libsndfile() -> None:
    for container in ("VOC", "PAF", "IRCAM", "PVF", "AVR"):
        assert load_audio(encode(noise(), container, "PCM_16")).size == 16_000, container
