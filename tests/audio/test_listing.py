"""What a folder or a pattern holds: links, hidden and unreadable files, unknown endings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.audio.listing import SourceError, list_folder, match_pattern
from hear_axlstm.audio.sources import FolderSource, open_source
from tests.helpers.platforms import posix_only

pytestmark = posix_only  # for the links in the folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two audio files, one behind a link, a loop of links, and other files."""
    data, store = tmp_path / "data", tmp_path / "store" / "fold1"
    (data / "sub").mkdir(parents=True)
    store.mkdir(parents=True)
    for path in (data / "sub" / "a.WAV", data / "._b.wav", data / "c.m4a", store / "b.flac"):
        path.touch()
    (data / "notes.txt").touch()
    (data / "fold1").symlink_to("../store/fold1")
    (data / "again").symlink_to("sub")
    (data / "sub" / "loop").symlink_to("..")
    return data


def test_linked_folders_are_followed_once(folder: Path) -> None:
    listing = list_folder(str(folder))
    assert listing.files == ["c.m4a", "fold1/b.flac", "sub/a.WAV"]
    assert listing.others == {".txt": 1} and not listing.unreadable


def test_a_pattern_finds_what_the_folder_holds(folder: Path) -> None:
    files = [str(folder / name) for name in list_folder(str(folder)).files]
    source = open_source(f"{folder}/**/*")
    assert [clip.source for clip in source.clips()] == files  # type: ignore[union-attr]
    assert match_pattern(f"{folder}/**/*.flac") == [str(folder / "fold1" / "b.flac")]
    assert match_pattern(f"{folder}/s*/*.WAV") == [str(folder / "sub" / "a.WAV")]
    folders = open_source(f"{folder}/f*")
    assert [clip.id for clip in folders.clips()] == ["b.flac"]


def test_a_folder_that_can_not_be_read_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    clips = list(FolderSource(folder).clips())
    assert [clip.id for clip in clips] == ["c.m4a", "fold1/b.flac", "sub"]
    assert "can't be read (Permission denied)" in clips[2].reason  # type: ignore[union-attr]


def test_what_is_there_instead_of_audio_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.tar").touch()
    with pytest.raises(SourceError, match=r"but 2 other files .*; pass tars as a pattern"):
        open_source(tmp_path)


def test_the_first_folder_is_the_label(folder: Path) -> None:
    clips = {clip.id: clip for clip in FolderSource(folder).clips()}
    assert clips["sub/a.WAV"] == AudioClip(
        "sub/a.WAV", str(folder / "sub" / "a.WAV"), labels=("sub",)
    )
    assert clips["c.m4a"].labels == ()  # type: ignore[union-attr]
