"""Decoding: channels, rates and broken files."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from hear_axlstm.audio.io import AudioError, load_audio


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
    (tmp_path / "song.m4a").write_bytes(b"....ftypM4A ")
    soundfile.write(tmp_path / "header.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
    remedies = {
        "missing.wav": "check the path",
        "zero.wav": "0 bytes",
        "noise.wav": "not decodable",
        "song.m4a": "convert it",
        "header.wav": "no samples",
        "nan.wav": "NaN",
    }
    for name, remedy in remedies.items():
        with pytest.raises(AudioError, match=remedy) as raised:
            load_audio(tmp_path / name)
        assert name in str(raised.value)
