"""Tars that are cut off, damaged, joined or too large: nothing is lost in silence."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from hear_axlstm.audio import tars
from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.audio.skipped import Skipped
from hear_axlstm.audio.tars import TarSource
from hear_axlstm.wording import plural

BLOCK = 512


def write(path: Path, clips: int = 4, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for number in range(clips):
            info = tarfile.TarInfo(f"{number}.wav")
            info.size = 1_000
            tar.addfile(info, io.BytesIO(bytes([number]) * 1_000))
    return path


def read(path: Path) -> tuple[list[str], str]:
    """Names of the clips, and why the others are missing."""
    found = list(TarSource(str(path)).clips())
    reasons = [clip.reason for clip in found if isinstance(clip, Skipped)]
    return [clip.id for clip in found if isinstance(clip, AudioClip)], "; ".join(reasons)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz"])
def test_a_whole_tar(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a.{suffix}", mode="w" if suffix == "tar" else "w:gz")
    names, reasons = read(path)
    assert names == [f"a.{suffix}/{n}.wav" for n in range(4)] and not reasons


@pytest.mark.parametrize("end", [1, 3, 4, 5, 7])
def test_wherever_it_is_cut_off_it_is_said(end: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar")  # a header and two blocks for each clip
    path.write_bytes(path.read_bytes()[: end * BLOCK])
    names, reasons = read(path)
    assert reasons.startswith(f"cut off after {plural(end // 3, 'clip')} (")
    assert len(names) == end // 3


def test_a_damaged_header_is_no_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar")
    content = bytearray(path.read_bytes())
    content[6 * BLOCK + 3] ^= 1
    path.write_bytes(content)
    names, reasons = read(path)
    assert len(names) == 2 and "cut off after 2 clips (damaged header" in reasons


def test_joined_tars_are_read_to_the_end(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a.tar"), write(tmp_path / "b.tar", clips=2)
    one.write_bytes(one.read_bytes() + two.read_bytes())
    names, reasons = read(one)
    assert len(names) == 6 and not reasons


def test_a_damaged_compression_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar.gz", mode="w:gz")
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # of the checksum
    path.write_bytes(content)
    names, reasons = read(path)
    assert len(names) == 4 and "cut off after 4 clips (CRC" in reasons


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_links_are_left_out_with_the_reason(kind: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar")
    with tarfile.open(path, "a") as tar:
        for name in ("again.wav", "notes.txt"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "0.wav"
            tar.addfile(link)
    names, reasons = read(path)
    assert len(names) == 4 and reasons.startswith("a link inside a tar: unpack the tar, or")
    skipped = [clip for clip in TarSource(str(path)).clips() if isinstance(clip, Skipped)]
    assert [(clip.id, clip.kind) for clip in skipped] == [
        ("a.tar/again.wav", "a link inside a tar")
    ]


def test_a_file_that_expands_beyond_bounds_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tars, "MEMBER_BYTES", 999)
    names, reasons = read(write(tmp_path / "a.tar.gz", mode="w:gz"))
    assert not names and reasons.count("too large inside a tar") == 4
