"""Files that are written whole, and progress outside of a terminal."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from hear_axlstm import progress as module
from hear_axlstm.files import naming_full_disk, replacing, sole_writer
from hear_axlstm.progress import progress


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
    with progress(total=1_000, desc="embedding", unit="clip", initial=10) as bar:
        bar.update(2)
        monkeypatch.setattr(module, "SECONDS_A_LINE", 0.0)
        bar.set_postfix_str("3 x real time")
        bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["embedding: 13/1,000 clips, 00:00, 3 x real time"] * 2
    assert list(progress([1, 2], "listing", leave=False)) == [1, 2]
    assert list(progress([], "nothing")) == []
