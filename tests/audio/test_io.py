"""Decoding: channels, rates and broken files."""

import math
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hear_axlstm.audio import io as module
from hear_axlstm.audio.decoders import BLOCK_SAMPLES
from hear_axlstm.audio.errors import AudioError
from hear_axlstm.audio.io import load_audio
from tests.helpers.sound_files import encode, encode_by_ffmpeg, noise


def sine(rate: int, seconds: float = 1.0, hz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_any_rate_becomes_the_same_tone(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "tone.wav", sine(rate), rate, subtype="FLOAT")
    samples = load_audio(tmp_path / "tone.wav")
    assert samples.dtype == np.float32 and samples.shape == (16_000,)
    middle = slice(2_000, -2_000)  # away from the resampler's edges
    np.testing.assert_allclose(samples[middle], sine(16_000)[middle], atol=2e-3)


def test_channels_are_averaged(tmp_path: Path) -> None:
    stereo = np.stack([np.full(1000, 0.5), np.full(1000, -0.25)], axis=1)
    soundfile.write(tmp_path / "stereo.flac", stereo, 16_000)
    np.testing.assert_allclose(load_audio(tmp_path / "stereo.flac"), 0.125, atol=1e-4)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".aiff"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    soundfile.write(tmp_path / f"tone{suffix}", sine(16_000), 16_000)
    samples = load_audio(tmp_path / f"tone{suffix}")
    assert abs(samples.size - 16_000) < 3_000  # mp3 may add its padding
    assert samples.std() == pytest.approx(0.5 / np.sqrt(2), rel=0.1)


def test_bad_files_name_themselves_and_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "zero.wav").touch()
    (tmp_path / "noise.wav").write_bytes(b"this is no audio at all" * 10)
    (tmp_path / "song.m4a").write_bytes(b"\0\0\0\x18ftypM4A " + bytes(12))
    soundfile.write(tmp_path / "header.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
    remedies = {
        "missing.wav": "check the path",
        "zero.wav": "0 bytes",
        "noise.wav": "text, not audio",
        "song.m4a": "MP4",
        "header.wav": "no samples",
        "nan.wav": "NaN",
    }
    for name, remedy in remedies.items():
        with pytest.raises(AudioError, match=remedy) as raised:
            load_audio(tmp_path / name)
        assert name in str(raised.value)


def test_a_span_is_that_part_of_the_whole(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "tone.flac", sine(16_000, 2.0), 16_000)
    whole = load_audio(tmp_path / "tone.flac")
    span = load_audio(tmp_path / "tone.flac", start=0.5, end=1.25)
    np.testing.assert_array_equal(span, whole[8_000:20_000])
    assert load_audio(tmp_path / "tone.flac", start=1.5, end=9.0).size == 8_000
    with pytest.raises(AudioError, match="ends at 2 s, but the span begins at 3 s"):
        load_audio(tmp_path / "tone.flac", start=3.0)
    for start, end in ((-1.0, None), (1.0, 1.0), (0.0, math.nan), (math.nan, None)):
        with pytest.raises(AudioError, match=r"start=|end="):
            load_audio(tmp_path / "tone.flac", start=start, end=end)


def test_spans_parse_a_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, parsed = tmp_path / "a.wav", []
    find = module.find_parts
    monkeypatch.setattr(module, "find_parts", lambda file: parsed.append(1) or find(file))
    for seconds in (3, 4):
        soundfile.write(path, sine(16_000, seconds), 16_000)
        load_audio(path)
        os.utime(path, (seconds, seconds))  # long ago
        for _ in range(2):
            assert load_audio(path, start=2).size == (seconds - 2) * 16_000
    assert len(parsed) == 4, "a file that has just changed may change again"


def test_longest_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    data = encode(noise(3), "FLAC")
    assert load_audio(data, longest=3.0).size == 48_000
    assert load_audio(data, start=1.0, longest=2.0).size == 32_000
    for file in (
        data,
        data + data,
        encode(noise(3), "MP3"),
        encode_by_ffmpeg(noise(3), "adts", "aac"),
    ):
        with pytest.raises(AudioError, match="too long"):
            load_audio(file, longest=2.0)


@pytest.mark.parametrize("rate", [1, 8, 999, 2_000_000_000])
def test_a_rate_that_no_recording_has_is_refused(rate: int) -> None:
    data = bytearray(encode(noise(), "WAV"))
    data[24:28] = rate.to_bytes(4, "little")
    tracemalloc.start()
    with pytest.raises(AudioError, match="correct the header"):
        load_audio(bytes(data))
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


def test_memory_is_bounded_by_blocks(tmp_path: Path) -> None:
    """Eight channels of 48 kHz take little more than the one channel of 16 kHz they become."""
    path = tmp_path / "wide.wav"
    soundfile.write(path, np.zeros((48_000 * 60, 8), np.float32), 48_000, subtype="PCM_16")
    tracemalloc.start()
    samples = load_audio(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert samples.size == 60 * 16_000
    assert peak < 3 * samples.nbytes + 4 * (4 * BLOCK_SAMPLES)
