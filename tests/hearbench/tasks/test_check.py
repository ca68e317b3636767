"""Every file of a task looked at, and the command that shows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hearbench.cli.tasks import tasks
from hearbench.tasks.check import check_task
from hearbench.tasks.description import TaskError
from tests.helpers.hear_task import SAMPLE_RATE, write_task

CLIP = Path(str(SAMPLE_RATE)) / "test" / "test-3.wav"
SECOND = np.zeros(SAMPLE_RATE // 4, np.float32)


def rewrite(samples: np.ndarray, rate: int = SAMPLE_RATE) -> Callable[[Path], None]:
    return lambda task: soundfile.write(task / CLIP, samples, rate, subtype="FLOAT")


def cut_off(task: Path) -> None:
    content = (task / CLIP).read_bytes()
    (task / CLIP).write_bytes(content[: len(content) // 2])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (
        lambda task: (task / CLIP).unlink(),
        "are missing, the first is test-3.wav",
    ),
    "no audio": (
        lambda task: (task / CLIP).write_text("<html>", "utf-8"),
        "test-3.wav: not decodable",
    ),
    "empty": (lambda task: (task / CLIP).write_bytes(b""), "test-3.wav: not decodable"),
    "cut off": (cut_off, "test-3.wav: truncated"),
    "rate": (rewrite(SECOND, 8_000), "test-3.wav: 8000 Hz in a folder of 16000 Hz"),
    "stereo": (rewrite(np.stack([SECOND] * 2, axis=1)), "test-3.wav: 2 channels"),
    "longer": (
        rewrite(np.r_[SECOND, 0]),
        "test-3.wav: 4001 samples, but the other clips have 4000",
    ),
    "not finite": (rewrite(np.r_[SECOND[1:], np.nan]), "test-3.wav: contains NaN"),
    "other rate": (lambda task: (task / "8000").mkdir(), "8000/train is missing"),
    "no rate": (lambda task: (task / "16000").rename(task / "x"), "contains no audio"),
    "labels": (lambda task: (task / "test.json").unlink(), "test.json is missing"),
    "metadata": (lambda task: (task / "task_metadata.json").unlink(), "json is missing"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found(kind: str, tmp_path: Path) -> None:
    task = write_task(tmp_path / "tones")
    assert check_task(task).problems == ()
    damage, message = DAMAGE[kind]
    damage(task)
    (problem,) = check_task(task).problems
    assert message in problem


def test_durations(tmp_path: Path) -> None:
    wrong = write_task(tmp_path / "wrong", sample_duration=0.3)
    (problem,) = check_task(wrong).problems
    assert problem.endswith("16000: clips last 0.25 s, but task_metadata.json says 0.3 s")
    varying = write_task(tmp_path / "varying", sample_duration=None)
    rewrite(SECOND[:100])(varying)
    assert check_task(varying).problems == ()


def test_every_problem_is_listed(tmp_path: Path) -> None:
    task = write_task(tmp_path / "tones")
    for clip in (task / "16000" / "train").iterdir():
        clip.write_bytes(b"")
    assert len(check_task(task).problems) == 12


def row(output: str, name: str) -> list[str]:
    return next(line for line in output.splitlines() if line.startswith(name + " ")).split()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tasks() == 0
    output = capsys.readouterr().out
    assert row(output, "nsynth_pitch-v2.2.3-5h")[1:6] == ["-", "pitch_acc", "1", "88", "5000"]
    assert "of the ten are missing" not in output

    write_task(tmp_path / "esc50-v2.0.0-full", folds=5)
    write_task(tmp_path / "tones")
    (tmp_path / "fsd50k-v1.0-full").mkdir()
    assert tasks(tmp_path) == 1
    output = capsys.readouterr().out
    assert row(output, "tones") == ["tones", "ok", "top1_acc", "1", "2", "36", "-", "-"]
    assert row(output, "esc50-v2.0.0-full")[1:6] == ["differs", "top1_acc", "5", "2", "60"]
    assert row(output, "fsd50k-v1.0-full")[1:3] == ["broken", "mAP"]
    assert "task_metadata.json is missing" in output and "8 of the ten are missing" in output

    (tmp_path / "fsd50k-v1.0-full").rmdir()
    assert tasks(tmp_path) == 0
    with pytest.raises(TaskError, match="is not a directory"):
        tasks(tmp_path / "absent")


def test_many_problems_are_cut_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = write_task(tmp_path / "tones", clips=30)
    for clip in (task / "16000" / "train").iterdir():
        clip.write_bytes(b"")
    assert tasks(tmp_path) == 1
    assert "  and 10 more" in capsys.readouterr().out
