"""Audio at a rate that a task folder lacks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from hearbench.tasks.audio import check_audio
from hearbench.tasks.description import TaskError
from hearbench.tasks.folders import read_task
from hearbench.tasks.resample import provide_audio
from tests.helpers.hear_task import write_task


def test_the_highest_rate_is_resampled_once(tmp_path: Path) -> None:
    task = read_task(write_task(tmp_path / "tones", clips=2, rate=48_000))
    (note,) = provide_audio(task, [32_000, 48_000])
    assert "audio at 32000 Hz was resampled from 48000 Hz; it is kept in" in note
    check_audio(task, 32_000)
    clip = tmp_path / "tones/48000/test/test-1.wav"
    expected = soxr.resample(soundfile.read(clip)[0], 48_000, 32_000, quality="HQ")
    found, rate = soundfile.read(tmp_path / "tones/32000/test/test-1.wav")
    assert rate == 32_000
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert provide_audio(task, [32_000]) == []
    assert not list(tmp_path.rglob(".32000.part"))


def test_changed_audio_is_resampled_again(tmp_path: Path) -> None:
    task = read_task(write_task(tmp_path / "tones", clips=2, rate=48_000))
    provide_audio(task, [16_000, 96_000])
    clip, made = (tmp_path / f"tones/{rate}/test/test-1.wav" for rate in (48_000, 16_000))
    soundfile.write(clip, np.zeros(24_000), 48_000)
    first, second = provide_audio(task, [16_000, 96_000])
    assert "from 48000 Hz" in first and "from 48000 Hz" in second
    assert not soundfile.read(made)[0].any() and soundfile.info(str(made)).frames == 8_000
    (tmp_path / "tones/48000").rename(tmp_path / "elsewhere")
    assert provide_audio(task, [16_000]) == [], "without its source it is kept"
    shutil.rmtree(tmp_path / "tones/96000")
    (tmp_path / "tones/16000/.resampled").unlink()
    soundfile.write(tmp_path / "tones/16000/test/test-1.wav", np.ones(8_000), 16_000)
    assert provide_audio(task, [16_000]) == [], "a folder of the user is kept"


def test_a_copied_task_is_not_resampled_again(tmp_path: Path) -> None:
    task = read_task(write_task(tmp_path / "tones", clips=2, rate=48_000))
    provide_audio(task, [16_000])
    stamp = tmp_path / "tones/16000/.resampled"
    before = stamp.read_text("utf-8")
    os.utime(tmp_path / "tones/48000/test/test-1.wav", (0, 0))
    assert provide_audio(task, [16_000]) == []
    assert stamp.read_text("utf-8").split()[::2] == before.split()[::2]
    assert stamp.read_text("utf-8") != before, "the next call need not read the clips"
    stamp.write_text("", "utf-8")
    assert len(provide_audio(task, [16_000])) == 1
    (tmp_path / "tones/48000/test/test-1.wav").unlink()
    with pytest.raises(TaskError, match=r"1 clip\(s\) are missing, the first is test-1\.wav"):
        provide_audio(task, [16_000])
    stamp.write_text("", "utf-8")
    shutil.rmtree(tmp_path / "tones/48000")
    assert provide_audio(task, [16_000]) == [], "there is no other audio"


def test_outdated_audio_on_a_read_only_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = read_task(write_task(tmp_path / "tones", clips=2))
    provide_audio(task, [8_000])
    soundfile.write(tmp_path / "tones/16000/test/test-1.wav", np.zeros(4_000), 16_000)

    def refuse(_: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("hearbench.tasks.resample.FileLock", refuse)
    with pytest.raises(TaskError, match=r"has outdated audio at 8000 Hz, and .*Read-only"):
        provide_audio(task, [8_000])


def test_audio_of_a_lower_rate_is_said_to_lack_its_highs(tmp_path: Path) -> None:
    task = read_task(write_task(tmp_path / "tones", clips=2))
    (note,) = provide_audio(task, [44_100])
    assert "from 16000 Hz, so there is nothing above 8 kHz" in note


def test_what_is_interrupted_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = read_task(write_task(tmp_path / "tones", clips=4))
    with monkeypatch.context() as patch:
        patch.setattr("soundfile.write", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            provide_audio(task, [8_000])
    assert not (tmp_path / "tones/8000").exists()
    provide_audio(task, [8_000])
    check_audio(task, 8_000)


def test_audio_that_cannot_be_resampled(tmp_path: Path) -> None:
    task = read_task(write_task(tmp_path / "tones", clips=2))
    (tmp_path / "tones/16000/test/test-1.wav").write_bytes(b"junk")
    with pytest.raises(TaskError, match=r"test-1\.wav: not decodable"):
        provide_audio(task, [32_000])
    (tmp_path / "tones/16000").rename(tmp_path / "tones/elsewhere")
    with pytest.raises(TaskError, match="has no audio: a system needs 32000 Hz"):
        provide_audio(task, [32_000])
    task = read_task(write_task(tmp_path / "sound", clips=2))
    (tmp_path / "sound/32000").write_text("a file in the way", "utf-8")
    with pytest.raises(TaskError, match="it can't be written to"):
        provide_audio(task, [32_000])
