"""Fetching a task from a local server to a checked folder, whatever happens between."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hearbench import download
from hearbench.cli.fetch_tasks import fetch_tasks
from hearbench.download import FetchError
from hearbench.tasks.check import check_task
from hearbench.tasks.fetch import archives, convert, fetch, unpack
from hearbench.tasks.fetch.archives import Archive, find_archives, needs, read_checksums
from hearbench.tasks.fetch.fetch import fetch_task
from hearbench.tasks.fetch.unpack import members
from hearbench.tasks.official import MIRRORS, OFFICIAL, Mirror
from tests.helpers.file_server import FileServer, serving
from tests.helpers.hear_task import write_task

NAME = "beijing_opera-v1.0-hear2021-full"
TASK = OFFICIAL[NAME]
RATE = 48_000
WORKERS = 2


def tar(files: dict[str, bytes]) -> bytes:
    """A .tar.gz of regular files."""
    return packed([(regular(name, content), content) for name, content in files.items()])


def packed(entries: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.GNU_FORMAT) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def regular(name: str, content: bytes = b"") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Member -> content of a good archive: 36 clips of 0.25 s at 48 kHz."""
    folder = write_task(tmp_path_factory.mktemp("48k") / NAME, rate=RATE)
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {f"tasks/{NAME}/{path.relative_to(folder)}": path.read_bytes() for path in found}


@pytest.fixture
def server(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(download, "PAUSE", 0.001)
    with serving() as running:
        running.files[TASK.archive] = tar(files)
        yield running


def archive(server: FileServer, folder: Path) -> Archive:
    mirror = Mirror(server.url, f"{server.url}/listing")
    return find_archives([TASK], folder / ".fetch", [mirror], {})[0]


def urls(archive: Archive) -> list[str]:
    return [source.url for source in archive.sources]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def write(folder: Path, content: bytes) -> Path:
    path = folder / "archive.tar.gz"
    path.write_bytes(content)
    return path


def test_a_task_appears_resampled_and_checked(server: FileServer, tmp_path: Path) -> None:
    server.drop_after = len(server.files[TASK.archive]) // 2 + 1
    fetch_task(archive(server, tmp_path), tmp_path, [16_000, RATE], WORKERS)
    assert [p.name for p in tmp_path.iterdir() if p.name != ".fetch"] == [NAME]
    assert not list((tmp_path / ".fetch").iterdir())
    assert check_task(tmp_path / NAME).problems == ()
    for clip in (tmp_path / NAME / "16000").glob("*/*"):
        ours, rate = soundfile.read(clip)
        high, _ = soundfile.read(tmp_path / NAME / str(RATE) / clip.parent.name / clip.name)
        assert (rate, len(ours), len(high)) == (16_000, 4_000, 12_000)
        # below 7 kHz resampling changes nothing
        spectra = [np.fft.rfft(wave)[:1_750] / len(wave) for wave in (ours, high)]
        np.testing.assert_allclose(spectra[0], spectra[1], atol=2e-4)


def test_an_interrupted_conversion_goes_on(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    original = convert._replace

    def interrupted(target: Path, content: bytes) -> None:
        if len(written) == 20:
            raise KeyboardInterrupt
        written.append(target.name)
        original(target, content)

    monkeypatch.setattr(convert, "_replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_task(archive(server, tmp_path), tmp_path, [16_000], 1)
    assert not (tmp_path / NAME).exists()
    server.files.clear()
    again: list[str] = []
    monkeypatch.setattr(convert, "_replace", lambda t, c: (again.append(t.name), original(t, c)))
    fetch_task(archive(server, tmp_path), tmp_path, [16_000], 1)  # from what is here
    assert check_task(tmp_path / NAME).problems == ()
    assert not list((tmp_path / ".fetch").iterdir())  # the archive was downloaded by us
    clips = [name for name in again if name.endswith(".wav")]
    assert clips and not set(clips) & set(written)


def test_an_archive_that_was_replaced_is_converted_from_the_start(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clips() -> dict[str, str]:
        found = (tmp_path / NAME / "16000").rglob("*.wav")
        return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in found}

    [found] = find_archives([TASK], tmp_path / ".fetch", [Mirror("http://unused")], {})
    found.path.parent.mkdir()
    found.path.write_bytes(tar(files))
    fetch_task(found, tmp_path, [16_000], WORKERS)
    first = clips()
    with monkeypatch.context() as patch:  # all clips are converted, but the folder stays unfinished
        patch.setattr(Path, "rename", interrupt)
        (tmp_path / NAME).replace(tmp_path / "elsewhere")
        with pytest.raises(KeyboardInterrupt):
            fetch_task(found, tmp_path, [16_000], WORKERS)
    softer = {}
    for name, content in files.items():
        if name.endswith(".wav"):
            samples, rate = soundfile.read(io.BytesIO(content))
            soundfile.write(buffer := io.BytesIO(), samples / 2, rate, format="WAV")
            content = buffer.getvalue()
        softer[name] = content
    found.path.write_bytes(tar(softer))
    fetch_task(found, tmp_path, [16_000], WORKERS)
    assert clips().keys() == first.keys() and not set(clips().values()) & set(first.values())
    assert [path.name for path in (tmp_path / ".fetch").iterdir()] == [TASK.archive]


def test_wrong_checksum(server: FileServer, tmp_path: Path) -> None:
    server.checksums[TASK.archive] = "md5:" + "0" * 32
    with pytest.raises(FetchError, match=r"damaged: its md5 is .* it was removed"):
        fetch_task(archive(server, tmp_path), tmp_path, [16_000], WORKERS)
    assert not (tmp_path / NAME).exists()
    assert not (tmp_path / ".fetch" / TASK.archive).exists()
    known = {TASK.archive: hashlib.sha256(server.files[TASK.archive]).hexdigest()}
    mirror = Mirror(server.url, f"{server.url}/listing")
    [own] = find_archives([TASK], tmp_path / ".fetch", [mirror], known)
    fetch_task(own, tmp_path, [16_000], WORKERS)  # the user knows better
    assert (tmp_path / NAME).is_dir()


def test_an_incomplete_archive(server: FileServer, files: dict[str, bytes], tmp_path: Path) -> None:
    clip = next(name for name in files if name.endswith(".wav"))
    server.files[TASK.archive] = tar({k: v for k, v in files.items() if k != clip})
    with pytest.raises(FetchError, match=r"whole task \(.* 1 clip\(s\) are missing"):
        fetch_task(archive(server, tmp_path), tmp_path, [16_000], WORKERS)
    server.files[TASK.archive] = tar(files | {clip: b"no audio"})
    (tmp_path / ".fetch" / TASK.archive).unlink()
    with pytest.raises(FetchError, match=r"48000/test/.*wav: not decodable"):
        fetch_task(archive(server, tmp_path), tmp_path, [16_000], WORKERS)
    assert [p.name for p in tmp_path.iterdir()] == [".fetch"]


def test_mirrors_are_tried_in_order(server: FileServer, tmp_path: Path) -> None:
    empty = Mirror(f"{server.url}/none")
    mirrors = [empty, Mirror(server.url)]
    [found] = find_archives([TASK], tmp_path / ".fetch", mirrors, {})
    assert urls(found) == [f"{server.url}/none/{TASK.archive}", f"{server.url}/{TASK.archive}"]
    assert (found.size, found.checksums) == (None, ())
    fetch_task(found, tmp_path, [16_000], WORKERS)
    with pytest.raises(FetchError, match=r"could not be downloaded .* returned 404 .* pass --url"):
        fetch_task(replace(found, sources=found.sources[:1]), tmp_path, [16_000], WORKERS)


def test_each_mirror_has_its_own_checksum(server: FileServer, tmp_path: Path) -> None:
    """The second record's archives are of another version than the first one's."""
    with serving() as other:
        other.files[TASK.archive] = b"of another version"
        mirrors = [Mirror(f"{host.url}", f"{host.url}/listing") for host in (other, server)]
        [found] = find_archives([TASK], tmp_path / ".fetch", mirrors, {})
        del other.files[TASK.archive]
        for folder in "abc":
            (tmp_path / folder).mkdir()
        fetch_task(found, tmp_path / "a", [16_000], WORKERS)
        assert not found.path.exists()
        found.path.write_bytes(server.files[TASK.archive])  # by hand
        fetch_task(found, tmp_path / "b", [16_000], WORKERS)
        assert found.path.is_file()
        found.path.write_bytes(b"damaged")
        with pytest.raises(FetchError, match=r"not the published .*its md5 is .*; its md5 is .*--"):
            fetch_task(found, tmp_path / "c", [16_000], WORKERS)
        assert found.path.is_file()


def test_a_listing_is_taken_at_its_word(
    server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = archive(server, tmp_path)
    content = server.files.pop(TASK.archive)
    assert found.size == len(content)
    assert found.checksums == (f"md5:{hashlib.md5(content).hexdigest()}",)
    server.files["hear2021-beijing_opera-v2-full-48000.tar.gz"] = content
    assert urls(archive(server, tmp_path)) == []
    assert "it has hear2021-beijing_opera-v2-full-48000.tar.gz" in caplog.text
    server.statuses = [500]
    assert urls(archive(server, tmp_path)) == [f"{server.url}/{TASK.archive}"]
    assert "no sizes and checksums" in caplog.text


def test_needs(server: FileServer, tmp_path: Path) -> None:
    mirror = Mirror(server.url)
    two = [TASK, OFFICIAL["esc50-v2.0.0-full"]]
    found = find_archives(two, tmp_path / "new", [mirror], {})
    one = needs(found, tmp_path / "new", [16_000], keep=False)
    folders = (0.31 + 2.78) * 3600 * 16_000 * 2
    assert one.disk == pytest.approx(folders + 2.78 * 3600 * RATE * 2, rel=1e-3)
    assert one.download == pytest.approx(3 * folders, rel=1e-3)
    assert needs(found, tmp_path, [16_000], keep=True).disk > one.disk
    found[0].partial.mkdir(parents=True)
    (found[0].partial / "clip.wav").write_bytes(bytes(1000))
    assert needs(found, tmp_path / "new", [16_000], keep=False).disk == one.disk - 1000


def test_read_checksums(tmp_path: Path) -> None:
    (tmp_path / "sums").write_text("ab12  a b.tar.gz\ncd34 *./dir/c.tar.gz\n\n", "utf-8")
    assert read_checksums(tmp_path / "sums") == {"a b.tar.gz": "ab12", "c.tar.gz": "cd34"}
    (tmp_path / "sums").write_text("ab12\n", "utf-8")
    with pytest.raises(FetchError, match="not a list of checksums"):
        read_checksums(tmp_path / "sums")


def link(kind: bytes) -> tarfile.TarInfo:
    info = regular(f"tasks/{NAME}/48000/train/x.wav")
    info.type, info.linkname = kind, "../../../../../etc/passwd"
    return info


def sparse() -> tarfile.TarInfo:
    info = regular(f"tasks/{NAME}/48000/train/x.wav")
    info.type = tarfile.GNUTYPE_SPARSE
    return info


HOSTILE: dict[str, tuple[tarfile.TarInfo, str]] = {
    "symbolic link": (link(tarfile.SYMTYPE), "not a regular file"),
    "hard link": (link(tarfile.LNKTYPE), "not a regular file"),
    "device": (link(tarfile.CHRTYPE), "not a regular file"),
    "pipe": (link(tarfile.FIFOTYPE), "not a regular file"),
    "sparse file": (sparse(), "not a regular file"),
    "absolute path": (regular("/etc/cron.d/x"), "not plain"),
    "parent": (regular("../../x.json"), "not plain"),
    "parent inside": (regular(f"tasks/{NAME}/48000/../x.wav"), "not plain"),
    "backslash": (regular(f"tasks/{NAME}/48000/train/..\\x.wav"), "not plain"),
    "drive": (regular(f"tasks/{NAME}/48000/train/C:x.wav"), "not plain"),
    "line feed": (regular(f"tasks/{NAME}/48000/train/a\nb.wav"), "not plain"),
    "no name": (regular("."), "outside tasks/beijing"),
    "other task": (regular("tasks/esc50-v2.0.0-full/test.json"), "outside tasks/beijing"),
    "top folder": (regular("bin/x.json"), "outside tasks/beijing"),
    "other rate": (regular(f"tasks/{NAME}/16000/train/x.wav"), "clips must be in 48000/<split>"),
    "too deep": (regular(f"tasks/{NAME}/48000/train/a/x.wav"), "clips must be in 48000/<split>"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_members_are_refused(
    kind: str, server: FileServer, files: dict[str, bytes], tmp_path: Path
) -> None:
    hostile, message = HOSTILE[kind]
    entries = [(regular(name, content), content) for name, content in files.items()]
    server.files[TASK.archive] = packed([*entries[:5], (hostile, b""), *entries[5:]])
    tasks_dir = tmp_path / "outer" / "tasks"
    tasks_dir.mkdir(parents=True)
    with pytest.raises(FetchError, match=message):
        fetch_task(archive(server, tasks_dir), tasks_dir, [16_000], WORKERS)
    left = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    names = (TASK.archive, f"{TASK.archive}.downloaded", f"{NAME}.partial.source")
    assert left == {Path("outer/tasks/.fetch", name) for name in names}


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = bytes(3 << 20)
    path = write(tmp_path, tar({f"tasks/{NAME}/a.json": zeros, f"tasks/{NAME}/b.json": zeros}))
    assert len(list(members(path, NAME, RATE, 6 << 20))) == 2
    with pytest.raises(FetchError, match=r"b.json' and it is too large \(6,291,456 bytes"):
        list(members(path, NAME, RATE, 5 << 20))
    monkeypatch.setattr(unpack, "LARGEST_MEMBER", 2 << 20)
    with pytest.raises(FetchError, match=r"a.json' and it is too large"):
        list(members(path, NAME, RATE, 6 << 20))


def test_a_clip_may_not_hide_hours(tmp_path: Path, files: dict[str, bytes]) -> None:
    flac = io.BytesIO()
    soundfile.write(flac, np.zeros(700 * 8_000, np.int16), 8_000, format="FLAC")
    clip = next(name for name in files if name.endswith(".wav"))
    path = write(tmp_path, tar(files | {clip: flac.getvalue()}))
    with pytest.raises(FetchError, match="too long"):
        convert.convert(path, TASK, tmp_path / "new", [16_000], WORKERS)


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda content: content[:-1000],
    "no gzip": lambda content: b"<html>",
    "no tar": lambda content: gzip.compress(b"a" * 5_000),
    "flipped": lambda content: content[:3000] + b"\0" * 500 + content[3500:],
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_archives(kind: str, files: dict[str, bytes], tmp_path: Path) -> None:
    path = write(tmp_path, DAMAGED[kind](tar(files)))
    with pytest.raises(FetchError, match=r"damaged|whole task"):
        convert.convert(path, TASK, tmp_path / "new", [16_000], WORKERS)
    assert not (tmp_path / "new").exists()


def test_layouts(files: dict[str, bytes], tmp_path: Path) -> None:
    """Archives as hearpreprocess makes them, with folders of their own and files we don't need."""
    folders = [f"hear-2021.0.6/tasks/{NAME}/48000/train/", "./"]
    entries = [(regular(name), b"") for name in folders]
    for info, _ in entries:
        info.type = tarfile.DIRTYPE
    entries += [
        (regular(f"./hear-2021.0.6/{name}", content), content) for name, content in files.items()
    ]
    entries.append((regular(f"hear-2021.0.6/tasks/{NAME}/notes.txt"), b""))
    found = list(members(write(tmp_path, packed(entries)), NAME, RATE, 10 << 20))
    assert {f"tasks/{NAME}/{member.path}" for member in found} == set(files)
    twice = write(tmp_path, packed(entries[-2:-1] * 2))
    with pytest.raises(FetchError, match="occurs twice"):
        list(members(twice, NAME, RATE, 10 << 20))


def test_command(
    server: FileServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(*names: str, **options: object) -> int:
        return fetch_tasks(tmp_path / "tasks", names, url=server.url, **options)  # type: ignore[arg-type]

    assert run(dry_run=True) == 0 and not (tmp_path / "tasks").exists()
    assert "10 task(s) to fetch: at most 51.8 GB to download" in capsys.readouterr().out
    assert run("beijing_opera", "esc50") == 1  # the second one is not on this server
    assert "esc50-v2.0.0-full-48000.tar.gz could not be downloaded" in capsys.readouterr().err
    requests = len(server.requests)
    assert run(NAME) == 0 and len(server.requests) == requests
    assert f"{NAME} exists already" in capsys.readouterr().out
    with pytest.raises(FetchError, match=r"no audio at 32000 Hz: move it .* --rates 16000 32000"):
        run(NAME, rates=(16_000, 32_000))
    with pytest.raises(FetchError, match="unknown task 'esc'"):
        run("esc")
    for bad in ({"rates": ()}, {"rates": (0,)}, {"workers": 0}):
        with pytest.raises(FetchError, match=str(next(iter(bad)))):
            run(**bad)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 0}))
    with pytest.raises(FetchError, match=r"not enough .* 0.0 GB free"):
        run("esc50")


def test_ctrl_c(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "convert", interrupt)
    assert fetch_tasks(tmp_path, (NAME,), url=server.url) == 130


def test_what_is_known_of_the_ten() -> None:
    assert len(OFFICIAL) == 10
    for name, task in OFFICIAL.items():
        assert name == task.folder and json.dumps(name)
        if task.seconds is not None:
            assert task.clips * task.seconds / 3600 == pytest.approx(task.hours, rel=0.02)
    assert sum(task.folds == 5 for task in OFFICIAL.values()) == 7
    assert MIRRORS[0].files.endswith("6332517/files")
