"""The authors' weights by their names, through gdown, from a stand-in for Google Drive."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
import torch
from safetensors import SafetensorError

from hear_axlstm import get_scene_embeddings, load_model
from hear_axlstm.checkpoints import checksum, format, locate
from hear_axlstm.checkpoints.authors import drive as drive_module
from hear_axlstm.checkpoints.authors import fetch
from hear_axlstm.checkpoints.authors.published import PUBLISHED, Published
from hear_axlstm.checkpoints.authors.runs import choose
from hear_axlstm.checkpoints.format import read_settings
from hear_axlstm.cli import main
from hear_axlstm.config import PRESETS, ModelConfig
from tests.helpers.drive_server import QUOTA, Drive, drive_id, reroute, restore, serving
from tests.helpers.file_server import serving as serving_files
from tests.helpers.release import random_state, reference_rows, save_checkpoint

NAME = "axlstm_tiny.audioset"
WEIGHTS = PUBLISHED[NAME]
RUN = WEIGHTS.run
SMALL = {
    "axlstm_tiny": ModelConfig(dim=32, depth=2),
    "ssast_tiny": ModelConfig(architecture="ssast", dim=64, depth=2, heads=1),
}
STATE = random_state(dim=32, depth=2, patch=(4, 16), expansion=2)
BLOCK = 512 << 10  # bytes that gdown writes at once
AUDIO = torch.randn(2, 40_000, generator=torch.Generator().manual_seed(1)) * 0.1


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A checkpoint that fits the small preset, and is longer than three of gdown's blocks."""
    path = tmp_path_factory.mktemp("run") / "a.pth"
    return save_checkpoint(path, STATE, 100, extra=torch.zeros(400_000)).read_bytes()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and presets of sizes that take no time."""
    for name, config in SMALL.items():
        monkeypatch.setitem(PRESETS, name, config)
    monkeypatch.setenv("HEAR_AXLSTM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/weights"


@pytest.fixture
def drive(content: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drive]:
    """The authors' folder with one run in it."""
    with serving(WEIGHTS.folder) as server:
        server.files = {f"{RUN}/checkpoints/checkpoint-100.pth": content}
        monkeypatch.setenv("TEST_DRIVE_SERVER", server.url)
        reroute()
        import gdown  # noqa: F401

        module = sys.modules["gdown.download"]
        monkeypatch.setattr(module, "_wait_or_cancel", lambda **_: None)  # between attempts
        monkeypatch.setattr(drive_module, "time", SimpleNamespace(sleep=lambda _: None))
        yield server
        restore()


def left(cache: Path) -> set[str]:
    return {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}


WHOLE = {f"{NAME}.safetensors", f"{NAME}.sha256"}

LAYOUTS = {
    "the newest epoch of the first repetition": (
        [f"{RUN}/checkpoints/checkpoint-{n}.pth" for n in (9, 100, 20)]
        + [f"{RUN[:-1]}2/checkpoints/checkpoint-200.pth"],
        f"{RUN}/checkpoints/checkpoint-100.pth",
    ),
    "deeper, beside other runs and files": (
        [f"a/AudioSet/{RUN}/checkpoints/checkpoint-9.pth", f"a/AudioSet/{RUN}/log.txt"]
        + [f"a/AudioSet/axlstm_small_200_16x4_4x256_fp16_r1/checkpoints/checkpoint-{n}.pth"
           for n in (9, 99)] + ["README.md", "checkpoints/checkpoint-999.pth"],
        f"a/AudioSet/{RUN}/checkpoints/checkpoint-9.pth",
    ),
    "the run's own before those of folders in it": (
        [f"{RUN}/finetuned/checkpoint-200.pth", f"{RUN}/checkpoints/checkpoint-100.pth"],
        f"{RUN}/checkpoints/checkpoint-100.pth",
    ),
    "only a later repetition": (
        [f"{RUN[:-1]}10/checkpoints/checkpoint-5.pth", f"{RUN[:-1]}2/checkpoints/checkpoint-5.pth"],
        f"{RUN[:-1]}2/checkpoints/checkpoint-5.pth",
    ),
    "a zip": ([f"zips/{RUN}.zip", "zips/axlstm_small_200_16x4_r1.zip"], f"zips/{RUN}.zip"),
    "a checkpoint before its zip": (
        [f"{RUN}.zip", f"{RUN}/checkpoint-3.pth"],
        f"{RUN}/checkpoint-3.pth",
    ),
    "the run of the published name first": (
        [f"{WEIGHTS.prefix}_1x64_fp16_r1/checkpoint-9.pth", f"{RUN}/checkpoint-3.pth"],
        f"{RUN}/checkpoint-3.pth",
    ),
    "a folder in other letters": (
        [f"AxLSTM/{RUN.upper()}/checkpoints/checkpoint-{n}.pth" for n in (9, 100, 99)],
        f"AxLSTM/{RUN.upper()}/checkpoints/checkpoint-100.pth",
    ),
    "checkpoints of other names": (
        [f"{RUN}/ckpt_epoch_{n}.pt" for n in (9, 100, 99)] + [f"{RUN}/checkpoint_best.pth"],
        f"{RUN}/ckpt_epoch_100.pt",
    ),
    "one without a number": (
        [f"{RUN}/checkpoints/checkpoint_best.pth", f"{RUN}/optimizer.pth", f"{RUN}/log.txt"],
        f"{RUN}/checkpoints/checkpoint_best.pth",
    ),
    "the usual name before others": (
        [f"{RUN}/checkpoint_best.pth", f"{RUN}/ckpt-200.pth", f"{RUN}/checkpoint-99.pth"],
        f"{RUN}/checkpoint-99.pth",
    ),
    "a file with the name of the run": (["a/x.pth", f"a/{RUN}.pth"], f"a/{RUN}.pth"),
    "a zip from a browser": (
        [f"{RUN[:-1]}2-20261129T100000Z-001.zip", f"{RUN}-20261129T100000Z-001.zip"],
        f"{RUN}-20261129T100000Z-001.zip",
    ),
    "nothing": ([f"{RUN}/checkpoints/optimizer.pth", f"{RUN}/log.txt", "checkpoint-1.pth"], None),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYOUTS)
def test_which_checkpoint_is_chosen(kind: str) -> None:
    paths, expected = LAYOUTS[kind]
    assert choose(paths, WEIGHTS) == choose(paths[::-1], WEIGHTS) == expected


def test_a_tag_embeds_as_the_release_and_asks_once(
    drive: Drive, content: bytes, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drive.files |= {f"{RUN}/checkpoints/checkpoint-{n}.pth": b"not this one" for n in (9, 99)}
    drive.confirm = True
    model = load_model(NAME)
    assert f"{NAME} is not in the cache: downloading" in caplog.text
    rows = reference_rows(STATE, AUDIO, flip=True)
    torch.testing.assert_close(
        get_scene_embeddings(AUDIO, model), rows.mean(1), rtol=1e-4, atol=1e-4
    )
    assert left(cache) == WHOLE and model.config.layout == "release"
    drive.requests.clear()
    again = load_model(NAME)
    assert not drive.requests and again.config == model.config
    _, facts = read_settings(WEIGHTS.path)
    assert facts["file"] == f"{RUN}/checkpoints/checkpoint-100.pth"
    assert facts["file_id"] == drive_id(facts["file"]) and facts["size"] == len(content)
    assert facts["sha256"] in WEIGHTS.record.read_text("utf-8") and facts["epoch"] == 100
    assert facts["source"] == WEIGHTS.page and re.fullmatch(r"\d{4}-\d\d-\d\d", facts["date"])


def test_a_zip_of_a_run_is_unpacked(drive: Drive, content: bytes, cache: Path) -> None:
    drive.files = {f"{RUN}.zip": zipped({f"{RUN}/checkpoints/checkpoint-7.pth": content})}
    assert load_model(NAME).config.dim == 32
    assert left(cache) == WHOLE


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def raising(error: Exception):  # type: ignore[no-untyped-def]
    def send(*_: object, **__: object) -> None:
        raise error

    return send


REMEDY = (
    rf"; you can also download {RUN} from {WEIGHTS.page} with a browser and run "
    rf"`axlstm weights get {NAME} --from FOLDER`$"
)
REFUSALS = {
    "no connection": (
        {"send": requests.ConnectionError("Name or service not known")},
        "there is no connection to drive.google.com",
    ),
    "a proxy": ({"send": requests.exceptions.ProxyError("407")}, "the proxy refused"),
    "a certificate": ({"send": requests.exceptions.SSLError("expired")}, r"secure .*\(expired\)"),
    "no answer": ({"send": requests.Timeout()}, "did not answer in time"),
    "the quota": ({"page": QUOTA}, "Google Drive's daily quota"),
    "a page": (
        {"page": "<html>Please log in</html>"},
        "quota of downloads for the file is used up, or it is not public",
    ),
    "no folder": ({"status": 404}, r"Google Drive refused .*status code 404"),
    "an empty folder": ({"files": {}}, "lists no files"),
    "other contents": (
        {"files": {"README.md": b"", "models/tiny.pt": b""}},
        rf"contains no checkpoint of a run {WEIGHTS.prefix}\*; it lists README.md, models/tiny.pt",
    ),
    "something else in place of a checkpoint": (
        {"files": {f"{RUN}/checkpoint-1.pth": b"<!doctype html><p>"}},
        rf" {RUN}/checkpoint-1.pth is not a PyTorch checkpoint but a web page",
    ),
    "a damaged checkpoint": (
        {"files": {f"{RUN}/checkpoint-1.pth": b"PK\x03\x04" + bytes(99)}},
        rf" {RUN}/checkpoint-1.pth is damaged or cut off",
    ),
    "a zip of other things": (
        {"files": {f"{RUN}.zip": zipped({"a.txt": b"a"})}},
        rf" {RUN}.zip contains no checkpoint of a run .*; it lists {RUN}.zip/a.txt",
    ),
    "a damaged zip": (
        {"files": {f"{RUN}.zip": zipped({f"{RUN}/checkpoint-1.pth": bytes(999)})[:-40]}},
        rf" {RUN}.zip is damaged or cut off",
    ),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_failure_is_one_sentence_with_a_way_out(
    kind: str, drive: Drive, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, reason = REFUSALS[kind]
    for name, value in changes.items():
        if name == "send":
            monkeypatch.setattr("requests.adapters.HTTPAdapter.send", raising(value))
        else:
            setattr(drive, name, value)
    with pytest.raises((ConnectionError, FileNotFoundError, ValueError), match=reason) as caught:
        load_model(NAME)
    assert re.search(REMEDY, str(caught.value)) and "\n" not in str(caught.value)
    assert not WEIGHTS.path.exists() and not any(p.is_file() for p in WEIGHTS.downloads.rglob("*"))


def test_a_checkpoint_of_another_size_is_refused(drive: Drive, tmp_path: Path) -> None:
    wider = random_state(dim=64, depth=2, patch=(4, 16), expansion=2)
    path = save_checkpoint(tmp_path / "wide.pth", wider, 1)
    drive.files = {f"{RUN}/checkpoint-1.pth": path.read_bytes()}
    with pytest.raises(
        ValueError, match=r"1\.pth does not fit axlstm_tiny: dim is 64 instead of 32;"
    ) as caught:
        load_model(NAME)
    assert re.search(REMEDY, str(caught.value)) and not WEIGHTS.path.exists()


def test_a_cut_connection_is_resumed(drive: Drive) -> None:
    drive.cuts = [BLOCK + 100, BLOCK + 1]
    assert load_model(NAME).config.dim == 32
    assert drive.ranges == [f"bytes={BLOCK}-", f"bytes={2 * BLOCK}-"]


def test_a_transfer_that_breaks_off_is_resumed_by_the_next_call(drive: Drive) -> None:
    drive.cuts = [BLOCK, *[0] * 3]
    with pytest.raises(ConnectionError, match="was interrupted; run the same command again"):
        fetch.get(WEIGHTS)
    assert not WEIGHTS.path.exists()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        fetch.get(WEIGHTS, "/nowhere")
    drive.ranges.clear()
    assert fetch.get(WEIGHTS) == WEIGHTS.path
    assert drive.ranges == [f"bytes={BLOCK}-"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(drive: Drive, content: bytes) -> None:
    name = next(iter(drive.files))
    drive.files[name] = content[: len(content) // 2] + bytes(len(content))
    drive.cuts = [BLOCK, *[0] * 3]
    with pytest.raises(ConnectionError):
        fetch.get(WEIGHTS)
    drive.files[name] = content
    assert fetch.get(WEIGHTS) == WEIGHTS.path


@pytest.mark.parametrize("where", ["download", "conversion"])
def test_a_full_disk(where: str, drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    full = raising(OSError(errno.ENOSPC, "No space left on device"))
    if where == "conversion":
        full = raising(SafetensorError("I/O error: No space left on device (os error 28)"))
    with monkeypatch.context() as patch:
        if where == "download":
            patch.setattr("gdown.download", full)
        else:
            patch.setattr(format, "save_file", full)
        with pytest.raises(
            OSError, match=r"no space is left in [^()]*: set HEAR_AXLSTM_CACHE"
        ) as caught:
            load_model(NAME)
    assert re.search(REMEDY, str(caught.value)) and not WEIGHTS.path.exists()
    drive.ranges.clear()
    assert load_model(NAME).config.dim == 32


@pytest.mark.parametrize("place", ["a file", "/proc/cache"])
def test_a_cache_that_can_not_be_written(
    place: str, drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").write_text("", "utf-8")
    monkeypatch.setenv("HEAR_AXLSTM_CACHE", str(tmp_path / place))
    with pytest.raises(OSError, match=r"/weights can't be used \([^()]*\): set HEAR_") as caught:
        load_model(NAME)
    assert re.search(REMEDY, str(caught.value)) and not drive.requests


def test_offline_only_the_cache_serves(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEAR_AXLSTM_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"HEAR_AXLSTM_OFFLINE is set.*--from FOLDER"):
        load_model(NAME)
    assert not drive.requests
    monkeypatch.setenv("HEAR_AXLSTM_OFFLINE", "0")
    load_model(NAME)
    drive.requests.clear()
    monkeypatch.setenv("HEAR_AXLSTM_OFFLINE", "1")
    assert load_model(NAME).config.dim == 32 and not drive.requests


def test_another_file_of_the_same_name_is_noticed(
    drive: Drive, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_model(NAME)
    run_axlstm("weights", "remove", NAME)
    assert not WEIGHTS.path.exists() and WEIGHTS.record.exists()
    load_model(NAME)  # the same again
    run_axlstm("weights", "remove", NAME)
    other = random_state(dim=32, depth=2, patch=(4, 16), expansion=3)
    file = save_checkpoint(tmp_path / "checkpoint-100.pth", other, 100)
    drive.files = {f"{RUN}/checkpoints/checkpoint-100.pth": file.read_bytes()}
    with pytest.raises(ValueError, match=rf"differs from the first .*delete {WEIGHTS.record}"):
        load_model(NAME)
    drive.files = {f"{RUN}/checkpoints/checkpoint-101.pth": file.read_bytes()}
    assert load_model(NAME).config.expansion == 3  # a newer one


SOURCES = ["run", "above", "checkpoints", "file", "zip", "zip in a folder", "parts", "any part"]


@pytest.mark.parametrize("kind", SOURCES)
def test_what_a_browser_downloaded_is_taken(
    kind: str, content: bytes, cache: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "Downloads" / RUN / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "checkpoint-100.pth").write_bytes(content)
    (folder / "checkpoint-99.pth").write_bytes(b"old")
    archive = tmp_path / "zips" / f"{RUN}-20261129T1-001.zip"
    archive.parent.mkdir()
    archive.write_bytes(zipped({f"{RUN}/checkpoints/checkpoint-100.pth": content}))
    part = tmp_path / "parts" / "AudioSet-20261129T1-001.zip"  # of the folder of all runs
    part.parent.mkdir()
    part.write_bytes(zipped({f"AudioSet/{RUN}/log.txt": b"", f"AudioSet/{RUN}/checkpoints/": b""}))
    inside = f"AudioSet/{RUN}/checkpoints/checkpoint-100.pth"
    part.with_name("AudioSet-20261129T1-002.zip").write_bytes(zipped({inside: content}))
    part.with_name("other.zip").write_bytes(b"cut off")
    sources = (folder.parent, folder.parents[1], folder, folder / "checkpoint-100.pth", archive)
    sources += (archive.parent, part.parent, part)
    source = dict(zip(SOURCES, sources, strict=True))[kind]
    before = {path: path.stat().st_mtime for path in tmp_path.rglob("*")}
    run_axlstm("weights", "get", NAME, "--from", str(source))
    assert load_model(NAME).config.dim == 32 and left(cache) == WHOLE
    assert all(path.stat().st_mtime == at for path, at in before.items() if path.is_file())


def test_a_url_is_taken(content: bytes, cache: Path) -> None:
    with serving_files() as server:
        server.files["checkpoint-5.pth"] = content
        fetch.get(WEIGHTS, f"{server.url}/checkpoint-5.pth")
        assert left(cache) == WHOLE
        with pytest.raises(ConnectionError, match=rf"/other.pth can't .*404.*{NAME} --from"):
            fetch.get(WEIGHTS, f"{server.url}/other.pth")


OTHER_RUN = PUBLISHED["ssast_tiny.audioset"].run
BAD_SOURCES = {
    "nowhere": ("", b"", "nowhere does not exist"),
    "empty": ("log.txt", b"", rf"empty contains no .* run {WEIGHTS.prefix}\*; it lists empty/log"),
    "cut.zip": ("", zipped({"checkpoint-1.pth": bytes(999)})[:-40], "cut.zip is damaged or cut"),
    "changed.zip": ("", zipped({f"{RUN}/checkpoint-1.pth": bytes(9999)}).replace(b"\xed", b"\x07"),
        "changed.zip can't be unpacked"),
    "other": (f"{OTHER_RUN}/checkpoints/checkpoint-9.pth", b"", rf"lists other/{OTHER_RUN}/check"),
    "mine": ("run/checkpoints/checkpoint-9.pth", b"", "it lists mine/run/checkpoints/checkpoint-9"),
    RUN: ("checkpoint-9.pth", b"", f"{RUN}/checkpoint-9.pth is not .* but an empty file"),
    "a.pth": ("", b"RIFF", r"a\.pth is not a PyTorch checkpoint but another file"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_SOURCES)
def test_a_source_without_the_weights_is_named(name: str, tmp_path: Path, cache: Path) -> None:
    inside, content, reason = BAD_SOURCES[name]
    if name != "nowhere":
        path = tmp_path / name / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with pytest.raises((FileNotFoundError, ValueError), match=reason) as caught:
        fetch.get(WEIGHTS, str(tmp_path / name))
    assert "browser" not in str(caught.value) and str(tmp_path / name) in str(caught.value)
    assert not left(cache)


def test_values_that_are_not_finite_are_of_the_source(tmp_path: Path, cache: Path) -> None:
    state = STATE | {"cls_token": torch.full((1, 1, 32), torch.nan)}
    archive = tmp_path / "checkpoints.zip"
    path = save_checkpoint(tmp_path / "checkpoint-1.pth", state, 1)
    archive.write_bytes(zipped({"checkpoints/checkpoint-1.pth": path.read_bytes()}))
    for source, named in ((path, path), (archive, f"{archive}/checkpoints/{path.name}")):
        with pytest.raises(ValueError, match=f": {named}: cls_token contains NaN"):
            fetch.get(WEIGHTS, str(source))
    assert not left(cache)


def test_a_checkpoint_of_an_unnamed_run_is_used_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "renamed" / "checkpoints" / "checkpoint-7.pth"
    path.parent.mkdir(parents=True)
    save_checkpoint(path, STATE, 7)
    for source in (path, path.parent, path.parents[1]):
        caplog.clear()
        fetch.get(WEIGHTS, str(source))
        assert f"using {path}, although its path does not name run {WEIGHTS.prefix}*" in caplog.text
    named = path.parents[1].rename(tmp_path / RUN)
    caplog.clear()
    fetch.get(WEIGHTS, str(named / "checkpoints"))
    assert "does not name" not in caplog.text


def test_a_damaged_file_is_damaged_and_not_another(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint-1.pth"
    path.write_bytes(content)
    fetch.get(WEIGHTS, str(path))
    for damaged in (content[: len(content) // 2], content[:2000] + b"x" + content[2001:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{path} (is damaged|can't be read)"):
            fetch.get(WEIGHTS, str(path))
    assert load_model(NAME).config.dim == 32


def run_axlstm(*arguments: str) -> None:
    """`axlstm` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["axlstm", *arguments])
        main()


def test_the_command_line(drive: Drive, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_axlstm("weights", "list")
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert rows.keys() >= {*PUBLISHED, "axlstm_tiny.open36h", "ssast_tiny.open7h"}
    assert rows[NAME].endswith("no") and "MIT" in rows[NAME] and "AudioSet" in rows[NAME]
    with pytest.raises(SystemExit):
        run_axlstm("weights", "path", NAME)
    assert f"axlstm weights get {NAME}" in capsys.readouterr().err and not drive.requests
    run_axlstm("weights", "get", NAME)
    run_axlstm("weights", "path", NAME)
    assert capsys.readouterr().out.splitlines()[-1] == str(WEIGHTS.path)
    run_axlstm("weights", "list")
    assert re.search(rf"{re.escape(NAME)} .* yes\n", capsys.readouterr().out)
    WEIGHTS.path.write_bytes(b"damaged")
    run_axlstm("weights", "list")
    assert re.search(rf"{re.escape(NAME)} .* damaged\n", capsys.readouterr().out)
    run_axlstm("weights", "get", NAME)
    assert load_model(NAME).config.dim == 32
    run_axlstm("weights", "remove", NAME)
    assert left(cache) == {f"{NAME}.sha256"}
    for arguments, reason in {
        ("remove", "axlstm_tiny"): "axlstm_tiny ships with this package",
        ("get", "axlstm_base"): r"weights 'axlstm_base': did you mean axlstm_base\.audioset\?",
        ("get", "axlstm_tiny", "--from", "run"): "ships with this package: --from is for",
        ("get", NAME, "nope"): r"unknown weights 'nope': choose one of axlstm_tiny\.open36h",
        ("path", "AxLSTM_tiny.audioset"): rf"did you mean {NAME}\?",
    }.items():
        drive.requests.clear()
        with pytest.raises(SystemExit):
            run_axlstm("weights", *arguments)
        assert re.search(reason, capsys.readouterr().err) and not drive.requests


PROCESS = """if True:
    import sys, time
    from hear_axlstm import checkpoints
    from hear_axlstm.checkpoints import format
    from hear_axlstm.config import PRESETS, ModelConfig
    from tests.helpers.drive_server import reroute
    reroute()
    PRESETS["axlstm_tiny"] = ModelConfig(dim=32, depth=2)
    if "slow" in sys.argv:
        save = format.save_file
        def slow(tensors, path, metadata):
            path.write_bytes(b"half")
            print("converting", flush=True)
            time.sleep(60)
        format.save_file = slow
    print("ready", flush=True)
    print(checkpoints.locate("axlstm_tiny.audioset"), flush=True)
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_one_process_downloads_and_the_other_waits(drive: Drive, cache: Path) -> None:
    drive.delay = 0.05
    processes = [start(), start()]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert all(out == f"{WEIGHTS.path}\n" for out, _ in outputs), outputs
    assert drive.requests.count("/uc") == 1 and left(cache) == WHOLE


@pytest.mark.slow
@pytest.mark.parametrize("when", ["download", "conversion"])
def test_a_killed_process_leaves_nothing_that_looks_like_weights(
    when: str, drive: Drive, content: bytes, cache: Path
) -> None:
    drive.delay = 0.05 if when == "download" else 0.0
    process = start(*(["slow"] if when == "conversion" else []))
    if when == "download":
        while not any(p.stat().st_size for p in WEIGHTS.downloads.rglob("*.part")):
            time.sleep(0.01)
    else:
        assert process.stdout and process.stdout.readline() == "converting\n"
    process.kill()
    process.communicate()
    assert not WEIGHTS.path.exists()
    drive.delay = 0.0
    drive.requests.clear()
    assert locate(NAME) == WEIGHTS.path
    assert load_model(NAME).config.dim == 32
    assert left(cache) == WHOLE
    assert drive.ranges or when == "conversion"


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_preset_at_its_full_size(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("HEAR_AXLSTM_CACHE", str(tmp_path / "cache"))
    weights: Published = PUBLISHED[name]
    config = PRESETS[weights.preset]
    expansion = 3 if config.architecture == "axlstm" else None
    state = random_state(config.dim, config.depth, config.patch, expansion)
    path = tmp_path / weights.run / "checkpoints/checkpoint-100.pth"
    save_checkpoint(path, state, 100)
    fetch.get(weights, str(path.parents[1]))
    model, audio = load_model(name), AUDIO[:1]
    expected = reference_rows(state, audio, flip=True).mean(1)
    torch.testing.assert_close(get_scene_embeddings(audio, model), expected, rtol=1e-4, atol=1e-4)


def test_the_record_is_of_the_checkpoint(drive: Drive, content: bytes, tmp_path: Path) -> None:
    load_model(NAME)
    (tmp_path / "checkpoint-100.pth").write_bytes(content)
    digest, name = WEIGHTS.record.read_text("utf-8").split()
    assert name == f"{RUN}/checkpoint-100.pth"
    assert digest == checksum.sha256(tmp_path / "checkpoint-100.pth")
    assert json.loads(json.dumps(read_settings(WEIGHTS.path)[1]))["sha256"] == digest
