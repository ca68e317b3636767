"""Downloads: resumed across broken connections and restarts, and never put together wrongly."""

from __future__ import annotations

import hashlib
import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hearbench import download as module
from hearbench.download import (
    FetchError,
    NotThereError,
    UnreachableError,
    download,
    mismatch,
    partial_size,
)
from tests.helpers.file_server import FileServer, serving

CONTENT = random.Random(0).randbytes(300_000)
CHANGED = random.Random(1).randbytes(300_000)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(module, "PAUSE", 0.001)
    with serving() as running:
        running.files["a.bin"] = CONTENT
        yield running


def break_off(server: FileServer, path: Path) -> None:
    """Leave the first part of a download behind."""
    server.drop_after = 120_000
    server.statuses = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ATTEMPTS", 1)
        with pytest.raises(FetchError, match="without progress"):
            download(f"{server.url}/a.bin", path)
    server.drop_after = None
    assert partial_size(path) == 120_000
    assert not path.exists()


def test_whole(server: FileServer, tmp_path: Path) -> None:
    download(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_dropped_connections_are_resumed(server: FileServer, tmp_path: Path) -> None:
    server.drop_after = 70_000
    download(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.sent == len(CONTENT)  # not a byte twice
    assert server.requests[1:] == [
        f"/a.bin bytes={n}-" for n in (70_000, 140_000, 210_000, 280_000)
    ]


def test_a_new_process_goes_on(server: FileServer, tmp_path: Path) -> None:
    break_off(server, tmp_path / "a.bin")
    download(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.sent == len(CONTENT)


def test_complete_but_not_renamed(server: FileServer, tmp_path: Path) -> None:
    break_off(server, tmp_path / "a.bin")
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    download(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.sent == 120_000


@pytest.mark.parametrize("if_range", [True, False])
def test_a_changed_file_is_not_spliced(server: FileServer, tmp_path: Path, if_range: bool) -> None:
    break_off(server, tmp_path / "a.bin")
    server.files["a.bin"] = CHANGED
    server.if_range = if_range  # without it, the server sends the rest of the other file
    download(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CHANGED


@pytest.mark.parametrize("what", ["ranges", "etags"])
def test_servers_that_cant_resume(server: FileServer, tmp_path: Path, what: str) -> None:
    setattr(server, what, False)
    break_off(server, tmp_path / "a.bin")
    download(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.sent == 120_000 + len(CONTENT)


def test_another_url_starts_anew(server: FileServer, tmp_path: Path) -> None:
    break_off(server, tmp_path / "a.bin")
    server.files["b.bin"] = CHANGED
    download(f"{server.url}/b.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CHANGED


def test_damaged_note(server: FileServer, tmp_path: Path) -> None:
    for damage in ("{", "[]", '{"url": 1}', json.dumps({"other": 1})):
        break_off(server, tmp_path / "a.bin")
        (tmp_path / "a.bin.part.json").write_text(damage, "utf-8")
        download(f"{server.url}/a.bin", tmp_path / "a.bin")
        assert (tmp_path / "a.bin").read_bytes() == CONTENT
        (tmp_path / "a.bin").unlink()


def test_a_busy_server_is_asked_again(server: FileServer, tmp_path: Path) -> None:
    server.statuses = [503, 429, 500]
    download(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_without_a_validator_only_a_larger_part_is_progress(
    server: FileServer, tmp_path: Path
) -> None:
    server.etags = False
    server.drop_after = 120_000
    with pytest.raises(FetchError, match="failed 6 times without progress"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert len(server.requests) == 6


def test_what_does_not_help(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(NotThereError, match=r"/absent: the server returned 404 Not Found"):
        download(f"{server.url}/absent", tmp_path / "a.bin")
    with pytest.raises(NotThereError, match="no-url"):
        download("no-url", tmp_path / "a.bin")
    server.statuses = [503] * 99
    with pytest.raises(FetchError, match="failed 6 times without progress, last with status 503"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(UnreachableError, match=r"no connection to 127\.0\.0\.1; run"):
            download(f"http://127.0.0.1:{unused.getsockname()[1]}/a.bin", tmp_path / "a.bin")


def test_mismatch(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(CONTENT)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    for good in (f"md5:{hashlib.md5(CONTENT).hexdigest()}", sha256, sha256.upper()):
        assert mismatch(file, good) == ""
    for bad in ("crc32:00", "abc", "md5"):
        with pytest.raises(FetchError, match="is not a checksum"):
            mismatch(file, bad)
    other = hashlib.sha256(CHANGED).hexdigest()
    assert mismatch(file, other) == f"its sha256 is {sha256} instead of {other}"
