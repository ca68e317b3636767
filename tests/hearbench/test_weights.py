"""The published checkpoints: the table, and getting them over stand-ins of their servers."""

from __future__ import annotations

import errno
import hashlib
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from hearbench.cli.weights import weights as command
from hearbench.errors import WeightsError
from hearbench.paper_tables import rows
from hearbench.systems.catalog import CATALOG
from hearbench.weights import fetch
from hearbench.weights.fetch import get
from hearbench.weights.runs import choose
from hearbench.weights.table import CHECKPOINTS, Weights, find
from tests.helpers import system_checkpoints as write
from tests.helpers.file_server import FileServer, serving


def test_the_table_has_every_other_row_of_table_2(capsys: pytest.CaptureFixture[str]) -> None:
    printed = {row.model for row in rows("table2") if not row.recipe} - {"HEAR-Naive"}
    assert {weights.row for weights in CHECKPOINTS.values() if weights.row} == printed
    for weights in CHECKPOINTS.values():
        assert weights.license in CATALOG[weights.system].weights_license
        ways = (weights.url, weights.drive_file, weights.drive_folder, weights.hub)
        assert sum(map(bool, ways)) == (weights.system != "msm_mae")
    assert command("list") == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in CHECKPOINTS) and "CC-BY-NC-4.0" in listed


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server of files; there is no wait between two attempts to reach it."""
    monkeypatch.setattr("hearbench.download.PAUSE", 0.0)
    with serving() as server:
        yield server


def on(web: FileServer, name: str) -> Weights:
    return replace(CHECKPOINTS[name], url=f"{web.url}/{CHECKPOINTS[name].file}", sha256="")


def test_a_file_comes_once_and_is_checked(tmp_path: Path, web: FileServer) -> None:
    beats, folder = on(web, "beats"), tmp_path / "cache"
    web.files[beats.file] = b"<html>quota</html>"
    with pytest.raises(WeightsError, match=r"load: BEATs_iter3\.pt is .* a web page.*--from PATH"):
        get(beats, folder)
    (tmp_path / "w").mkdir()
    web.files[beats.file] = content = write.beats(tmp_path / "w").read_bytes()
    path = get(beats, folder)
    assert path == folder / "BEATs_iter3.pt" and path.read_bytes() == content
    asked = len(web.requests)
    assert get(beats, folder) == path and len(web.requests) == asked
    path.unlink()
    web.files[beats.file] = write.beats(tmp_path / "w", seed=1).read_bytes()
    with pytest.raises(WeightsError, match=r"differs from the first download.*delete"):
        get(beats, folder)
    assert not path.exists()


def test_a_transfer_that_breaks_off_is_resumed_by_the_next_call(
    tmp_path: Path, web: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    passt, folder = on(web, "passt"), tmp_path / "cache"
    web.files[passt.file] = content = write.passt(tmp_path).read_bytes()
    web.drop_after = 1 << 16
    monkeypatch.setattr("time.sleep", lambda _: web.statuses.append(503))  # from then on
    with pytest.raises(WeightsError, match=r"passt: .*(interrupted|without progress).*--from PATH"):
        get(passt, folder)
    assert not (folder / passt.file).exists()
    web.drop_after, web.statuses = None, []
    before = web.sent
    assert get(passt, folder).read_bytes() == content
    assert web.sent - before < len(content)


def test_an_unfinished_download_is_not_found(tmp_path: Path) -> None:
    for path in (".beats.part/BEATs_iter3.pt", ".ssam-tiny.part/ssam_tiny_200_16x4_r1/a.pth"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(b"half")
    assert not find(tmp_path)


def test_a_known_checksum_is_compared(tmp_path: Path, web: FileServer) -> None:
    passt = on(web, "passt")
    web.files[passt.file] = content = write.passt(tmp_path).read_bytes()
    published = replace(passt, sha256=CHECKPOINTS["passt"].sha256)
    for source in (None, tmp_path / passt.file):
        with pytest.raises(
            WeightsError, match=rf"{passt.file} is not .* its sha256 is .* instead of"
        ):
            get(published, tmp_path / "cache", source)
    web.files[passt.file] = content[:-100]
    with pytest.raises(WeightsError, match=r"does not load: .* \(it is cut off\)"):
        get(published, tmp_path / "cache")
    web.files[passt.file] = content
    right = replace(passt, sha256=hashlib.sha256(content).hexdigest())
    assert get(right, tmp_path / "cache").is_file()


REFUSALS = {
    "no connection": (requests.ConnectionError("no route"), "there is no connection to"),
    "a proxy": (requests.exceptions.ProxyError("407"), "the proxy refused"),
    "no answer": (requests.Timeout(), "did not answer in time"),
    "a full disk": (
        OSError(errno.ENOSPC, "No space left"),
        "no space is left in .*: set HEARBENCH",
    ),
}


@pytest.mark.parametrize("name", ["beats", "audiomae", "ssam-tiny"])
@pytest.mark.parametrize("kind", REFUSALS)
def test_a_failure_is_one_sentence_with_a_way_out(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, reason = REFUSALS[kind]

    def send(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("requests.adapters.HTTPAdapter.send", send)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(WeightsError, match=reason) as caught:
        get(CHECKPOINTS[name], tmp_path / "cache")
    remedy = f"{CHECKPOINTS[name].page} with a browser and run `hearbench weights get {name} --from"
    assert remedy in str(caught.value) and "\n" not in str(caught.value)


def test_quota_folders_and_caches_that_do_not_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEARBENCH_OFFLINE", "1")
    with pytest.raises(WeightsError, match="HEARBENCH_OFFLINE is set"):
        get(CHECKPOINTS["beats"], tmp_path)
    monkeypatch.delenv("HEARBENCH_OFFLINE")
    (tmp_path / "file").write_text("", "utf-8")
    for folder in (tmp_path / "file", Path("/proc/cache")):
        with pytest.raises(WeightsError, match=r"can't be used \([^()]*\): set HEARBENCH_CACHE"):
            get(CHECKPOINTS["beats"], folder)

    def quota(**_: object) -> None:
        raise RuntimeError("Too many users have viewed or downloaded this file recently")

    monkeypatch.setattr("gdown.download", quota)
    with pytest.raises(WeightsError, match="daily quota"):
        get(CHECKPOINTS["audiomae"], tmp_path)


SOURCES = ("file", "other name", "folder", "zip")


@pytest.mark.parametrize("kind", SOURCES)
def test_a_file_that_a_browser_downloaded_is_taken(kind: str, tmp_path: Path) -> None:
    downloads = tmp_path / "Downloads"
    downloads.mkdir()
    file = write.audiomae(downloads).rename(downloads / "pretrained.pth")
    content = file.read_bytes()
    renamed, archive = tmp_path / "audiomae (1).pth", tmp_path / "a-001.zip"
    renamed.write_bytes(content)
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("a/pretrained.pth", content)
    source = dict(zip(SOURCES, (file, renamed, downloads, archive), strict=True))[kind]
    assert command("get", ("audiomae",), source=source, to=tmp_path / "cache") == 0
    assert (tmp_path / "cache" / "pretrained.pth").read_bytes() == content
    assert file.read_bytes() == content


@pytest.mark.parametrize("kind", ["run", "above", "renamed", "zip parts", "zip on the drive"])
def test_a_run_that_a_browser_downloaded_is_taken(kind: str, tmp_path: Path, drive: Path) -> None:
    name = "mamba_ssast_tiny_200_16x4_4x256_fp16_r1"
    run = write.ssam(tmp_path / "w").rename(tmp_path / "w" / name)
    (newest,) = run.rglob("*100.pth")
    old = newest.with_name("checkpoint-99.pth")
    old.write_bytes(b"old")
    source: Path | None = {"run": run, "above": tmp_path / "w"}.get(kind)
    if kind == "renamed":
        source = run.rename(tmp_path / "w" / "mine")
    if kind == "zip parts":
        for number, file in enumerate((old, newest), start=1):
            with zipfile.ZipFile(tmp_path / f"x-00{number}.zip", "w") as packed:
                packed.write(file, f"all/{name}/checkpoints/{file.name}")
        source = tmp_path / "x-001.zip"
    if kind == "zip on the drive":
        with zipfile.ZipFile(drive / f"{name}.zip", "w") as packed:
            packed.write(newest, f"{name}/checkpoints/{newest.name}")
    found = get(CHECKPOINTS["ssam-tiny"], tmp_path / "cache", source)
    assert [path.name for path in found.rglob("*.pth")] == ["checkpoint-100.pth"]
    assert get(CHECKPOINTS["ssam-tiny"], tmp_path / "cache") == found
    assert find(tmp_path / "cache", [CHECKPOINTS["ssam-tiny"]])


def test_sources_without_the_weights(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("text", "utf-8")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.wav").write_bytes(b"RIFF")
    with zipfile.ZipFile(tmp_path / "cut.zip", "w") as packed:
        packed.writestr("BEATs_iter3.pt", bytes(999))
    content = (tmp_path / "cut.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[:-40])
    (tmp_path / "changed.zip").write_bytes(content.replace(bytes(9), b"123456789"))
    (tmp_path / "cut.pt").write_bytes(write.beats(tmp_path).read_bytes()[:-99])
    folder = tmp_path / "cache"
    for name, source, reason in (
        ("beats", "nowhere", "nowhere does not exist"),
        ("beats", "one", r"one contains no BEATs_iter3\.pt, but one/a\.wav"),
        ("ssam-tiny", "d", r"no checkpoint of a run ssam_tiny_200_16x4\* among d/a\.txt"),
        (
            "beats",
            "one/a.wav",
            r"one/a\.wav is not a complete PyTorch checkpoint \(it is damaged, of",
        ),
        ("beats", "cut.pt", r"cut\.pt is not a complete PyTorch checkpoint \(it is cut off"),
        ("beats", "cut.zip", r"cut\.zip is damaged or cut off"),
        ("beats", "changed.zip", r"changed\.zip can't be unpacked \(Bad CRC"),
    ):
        with pytest.raises(WeightsError, match=reason) as caught:
            get(CHECKPOINTS[name], folder, tmp_path / source)
        assert "browser" not in str(caught.value) and str(folder) not in str(caught.value)
        assert not list(folder.iterdir())


def test_a_server_that_can_not_be_reached_is_asked_once(
    tmp_path: Path, web: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def listed(**_: object) -> None:
        asked.append(_)
        raise requests.exceptions.ProxyError("407")

    monkeypatch.setattr("gdown.download_folder", listed)
    monkeypatch.setattr("hearbench.weights.drive.RETRIES", 0)
    web.files["BEATs_iter3.pt"] = write.beats(tmp_path).read_bytes()
    names = ("ssam-tiny", "audiomae", "wavlm-large", "ssam-base")
    wanted = [*(CHECKPOINTS[name] for name in names), on(web, "beats")]
    (tmp_path / "cache").mkdir()
    write.audiomae(tmp_path / "cache")  # is there
    found = [result for _, result in fetch.get_all(wanted, tmp_path / "cache")]
    assert len(asked) == 1 and "the proxy refused" in str(found[0])
    assert found[1] == tmp_path / "cache" / "pretrained.pth" and "hub" in str(found[2])
    assert str(found[3]) == "ssam-base: skipped, as drive.google.com can't be reached"
    assert found[4] == tmp_path / "cache" / "BEATs_iter3.pt"


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for Google Drive; ids are paths."""
    folder = tmp_path / "drive"
    folder.mkdir()

    def listed(**_: object) -> list[SimpleNamespace]:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return [SimpleNamespace(path=str(p.relative_to(folder)), id=str(p)) for p in files]

    monkeypatch.setattr("gdown.download_folder", listed)
    monkeypatch.setattr("gdown.download", lambda id, output, **_: shutil.copy(id, output))
    return folder


def test_runs_come_with_their_newest_checkpoint(tmp_path: Path, drive: Path) -> None:
    write.ssam(drive / "deeper").rename(drive / "deeper" / "ssam_tiny_200_16x4_4x256_fp16_r1")
    run = get(CHECKPOINTS["ssam-tiny"], tmp_path)
    assert run.name == "ssam_tiny_200_16x4_4x256_fp16_r1"
    assert [path.name for path in run.rglob("*.pth")] == ["checkpoint-100.pth"]
    write.mwmae(drive, orbax=True)
    run = get(CHECKPOINTS["mwmae-base"], tmp_path)
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert files == {"config.json", "checkpoint_20/checkpoint"}
    with pytest.raises(WeightsError, match=r"no checkpoint of a run ssam_base_200_16x4\* among"):
        get(CHECKPOINTS["ssam-base"], tmp_path)
    found = find(
        tmp_path, [CHECKPOINTS["ssam-tiny"], CHECKPOINTS["mwmae-base"], CHECKPOINTS["beats"]]
    )
    assert {weights.name for weights in found} == {"ssam-tiny", "mwmae-base"}


def test_only_a_folder_is_a_run_and_only_a_file_a_file(tmp_path: Path, drive: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "ssam_tiny_200_16x4_r1-20260101T000000Z-001.zip").write_bytes(b"PK")
    write.ssam(drive).rename(drive / "ssam_tiny_200_16x4_r1")
    run = get(CHECKPOINTS["ssam-tiny"], folder)
    assert run == folder / "ssam_tiny_200_16x4_r1" and run.is_dir()
    file = write.beats(tmp_path)
    (folder / file.name).mkdir()
    (folder / file.name / "mine.txt").touch()
    with pytest.raises(WeightsError, match=r"cache can't be used .* set HEARBENCH_CACHE or --to"):
        get(CHECKPOINTS["beats"], folder, file)
    assert (folder / file.name / "mine.txt").is_file()


def test_the_first_of_several_runs() -> None:
    listed = {
        f"x/ssam_base_200_16x4_r{r}/checkpoints/checkpoint-{n}.pth": f"{r}-{n}"
        for r in (10, 2)
        for n in (9, 10)
    }
    run, files = choose(listed, CHECKPOINTS["ssam-base"])
    assert run == "ssam_base_200_16x4_r2"
    assert files == {"checkpoints/checkpoint-10.pth": "2-10"}


def test_what_is_not_downloaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WeightsError, match=r"msm-mae is not downloaded here \(NTT"):
        command("get", ("msm-mae",), to=tmp_path)
    with pytest.raises(WeightsError, match="huggingface@microsoft/wavlm-large"):
        command("get", ("wavlm-large",), to=tmp_path)
    with pytest.raises(WeightsError, match="unknown weights 'x': choose one of passt, "):
        command("get", ("x",), to=tmp_path)
    with pytest.raises(WeightsError, match=r"unknown weights 'MSM_MAE': did you mean msm-mae\?"):
        command("get", ("MSM_MAE",), to=tmp_path)


def test_licences_are_shown_before_a_download(
    tmp_path: Path, drive: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []

    def download(id: str, output: str, **_: object) -> None:
        shown.append(capsys.readouterr().out)
        write.audiomae(Path(output).parent)

    monkeypatch.setattr("gdown.download", download)
    assert command("get", ("audiomae",), to=tmp_path / "cache") == 0
    assert "NON-COMMERCIAL" in shown[0]
    assert fetch.default_folder().name == "hearbench"
