"""Files that are written whole, and progress outside of a terminal."""

from __future__ import annotations

import errno
import inspect
import os
import re
import sys
from pathlib import Path

import pytest

import hearbench.progress
from hear_axlstm import progress as module
from hear_axlstm.files import naming_full_disk, replacing, sole_writer, write_text
from hear_axlstm.progress import Progress
from tests.helpers.platforms import die, posix_only
from tests.helpers.runs import start_process


def test_a_full_disk_is_named_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "scenes.npy"
    path.write_text("before", "utf-8")
    with (
        pytest.raises(OSError, match=r"scenes\.npy: free some space and run the same") as caught,
        naming_full_disk(tmp_path),
        replacing(path) as partial,
    ):
        partial.write_text("half", "utf-8")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text("utf-8") == "before" and list(tmp_path.iterdir()) == [path]


def test_others_may_read_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    with replacing(tmp_path / "weights") as partial:
        partial.write_text("of a library that hides its files", "utf-8")
        partial.chmod(0o600)
    assert (tmp_path / "weights").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_of_two_writers_the_last_one_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with replacing(path) as first, open(first, "w", encoding="utf-8") as file:
        file.write("first\n" * 3)
        file.flush()
        with replacing(path) as second:
            second.write_text("second", "utf-8")
        assert path.read_text("utf-8") == "second"
        file.write("first\n")
    assert path.read_text("utf-8") == "first\n" * 4
    assert list(tmp_path.iterdir()) == [path]


def write_half_and_die(path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text("half", "utf-8")
        die()


@posix_only
def test_what_killed_processes_leave_is_removed_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    for _ in range(2):
        process = start_process(write_half_and_die, path)
        process.join()
        assert process.exitcode and not path.exists()
        assert len(list(tmp_path.glob("out.csv.*.partial"))) == 1
    other, old = (tmp_path / f"out.csv.elsewhere-{n}-aa.partial" for n in (1, 2))
    unrelated = tmp_path / "my.out.csv.elsewhere-2-aa.partial"
    for kept in (other, old, unrelated):
        kept.touch()
    for kept in (old, unrelated):
        os.utime(kept, (0, 0))
    write_text(path, "whole")
    assert set(tmp_path.iterdir()) == {path, other, unrelated}


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    with (
        sole_writer(tmp_path),
        pytest.raises(BlockingIOError, match="by another process: wait"),
        sole_writer(tmp_path),
    ):
        pass


def test_lines_instead_of_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS_A_LINE", 0.0)
    with Progress(total=1_000, desc="embedding", unit="clip", initial=10) as bar:
        bar.set_postfix_str("3.0 x real time", refresh=False)
        bar.update(3)
    monkeypatch.setattr(module, "SECONDS_A_LINE", 60.0)
    assert list(Progress([1, 2], "listing", leave=False)) == [1, 2]
    assert list(Progress([], "nothing")) == []
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert re.fullmatch(r"embedding: 13/1000 clips \[00:00<\d\d:\d\d, 3.0 x real time\]", line)


class Logger:
    """What some servers put in place of stderr."""

    written = ""

    def write(self, text: str) -> None:
        self.written += text


@pytest.mark.parametrize("stderr", [None, Logger()])
def test_progress_needs_no_usual_stderr(
    stderr: Logger | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    assert list(Progress([1, 2], "listing")) == [1, 2]
    assert stderr is None or stderr.written.startswith("listing: 2/2")


def test_both_distributions_show_progress_alike() -> None:
    assert inspect.getsource(module) == inspect.getsource(hearbench.progress)
