"""Files that are written whole, and progress outside of a terminal."""

from __future__ import annotations

import errno
import inspect
import re
from pathlib import Path

import pytest

import hearbench.progress
from hear_axlstm import progress as module
from hear_axlstm.files import naming_full_disk, replacing, sole_writer
from hear_axlstm.progress import Progress


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


def test_both_distributions_show_progress_alike() -> None:
    assert inspect.getsource(module) == inspect.getsource(hearbench.progress)
