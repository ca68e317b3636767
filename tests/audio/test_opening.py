"""Paths, bytes and file objects, and what stands in a file's place."""

import io
import mmap
import os
import re
import socket
from pathlib import Path

import numpy as np
import pytest

from hear_axlstm.audio import AudioError, load_audio
from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.audio.skipped import Skipped
from hear_axlstm.audio.usable import decode
from tests.helpers.platforms import posix_only
from tests.helpers.sound_files import encode, noise

WAV = encode(noise(), "WAV")


class Pipe(io.RawIOBase):
    """Bytes that can't be sought, as from a network."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        return self._data.readinto(buffer)


def test_every_kind_of_source_gives_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(WAV)
    expected = load_audio(path)
    at_its_end = io.BytesIO(WAV)
    at_its_end.seek(0, io.SEEK_END)
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as moved,
    ):
        moved.seek(100)
        for source in (
            str(path),
            WAV,
            bytearray(WAV),
            memoryview(WAV),
            file,
            at_its_end,
            Pipe(WAV),
            moved,
        ):
            np.testing.assert_array_equal(load_audio(source), expected)
        assert not file.closed


def test_a_name_that_is_not_utf8_and_one_of_over_a_thousand_bytes(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 200] * 6)
    deep.mkdir(parents=True)
    for path in (deep / "a.wav", Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff\xfe.wav"))):
        path.write_bytes(WAV)
        assert load_audio(path).size == 16_000


def broken(tmp_path: Path) -> dict[str, tuple[object, str]]:
    """Sources without audio, and a part of their message."""
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "zero.wav").touch()
    (tmp_path / "a.wav").write_bytes(WAV)
    closed = io.BytesIO(WAV)
    closed.close()
    return {
        "missing": (tmp_path / "missing.wav", "no such file: check the path"),
        "within a file": (tmp_path / "a.wav" / "b.wav", "no such file"),
        "folder": (tmp_path / "folder.wav", "a folder, not a file"),
        "empty file": (tmp_path / "zero.wav", "empty, 0 bytes"),
        "empty bytes": (b"", "audio: empty, 0 bytes"),
        "empty name": ("", "no such file"),
        "NUL": ("a\0b.wav", "null byte in the path: check the path"),
        "5,000 letters": ("x" * 5000, "too long for this system"),
        "closed file": (closed, "closed"),
        "text file": (io.StringIO("text"), 'mode "rb"'),
        "file for writing": (open(tmp_path / "new.wav", "wb"), "open the file for reading"),
    }


@posix_only
def test_what_only_posix_has_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo.wav")
    (tmp_path / "link.wav").symlink_to("gone/b.wav")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.wav")
        for path, message in {
            "fifo.wav": "a FIFO (named pipe), not a regular file",
            "socket.wav": "a socket, not a regular file",
            "/dev/null": "a device, not a regular file",
            "link.wav": "a dangling symbolic link (to gone/b.wav): restore",
            "loop.wav": "leads back to itself",
        }.items():
            with pytest.raises(AudioError, match=re.escape(message)):
                load_audio(path)


def test_what_is_no_file_is_named_in_one_line(tmp_path: Path) -> None:
    for name, (source, message) in broken(tmp_path).items():
        with pytest.raises(AudioError) as raised:
            load_audio(source)  # type: ignore[arg-type]
        assert message in str(raised.value), name
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 600, name
    with pytest.raises(AudioError, match="URLs are not read"):
        load_audio("https://example.org/a.wav")
    with pytest.raises(AudioError, match="expanduser"):
        load_audio("~/no such file.wav")
    with pytest.raises(TypeError, match="not int"):
        load_audio(3)  # type: ignore[arg-type]


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(WAV)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # root may read everything
    with pytest.raises(AudioError, match="no permission to read it: change its mode"):
        load_audio(path)


@pytest.mark.parametrize("position", [20_000, 1_000_000])
def test_a_disk_that_fails_while_it_is_read(
    position: int, capfd: pytest.CaptureFixture[str]
) -> None:
    class Failing(io.BytesIO):
        def read(self, count: int | None = -1) -> bytes:
            if self.tell() > position:
                raise OSError(5, "Input/output error")
            return super().read(min(count or 0, 10_000))

    with pytest.raises(AudioError, match="not readable"):
        load_audio(Failing(encode(noise(60), "WAV")))
    assert capfd.readouterr().err == ""


@posix_only
def test_reasons_of_one_kind_are_counted_together(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).symlink_to(f"gone-{name}")
    found = [decode(AudioClip(name, str(tmp_path / name)), 16_000) for name in ("a.wav", "b.wav")]
    kinds = {item.kind for item in found if isinstance(item, Skipped)}
    assert kinds == {"a dangling symbolic link"}
