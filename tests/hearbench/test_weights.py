"""The published checkpoints: the table, and getting them over stand-ins of their servers."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from hearbench.cli.weights import weights as command
from hearbench.published import rows
from hearbench.systems.catalog import CATALOG
from hearbench.weights import fetch
from hearbench.weights.fetch import WeightsError, choose, get
from hearbench.weights.table import PUBLISHED, find
from tests.helpers import system_checkpoints as write


def test_the_table_has_every_other_row_of_table_2(capsys: pytest.CaptureFixture[str]) -> None:
    printed = {row.model for row in rows("table2") if not row.recipe} - {"HEAR-Naive"}
    assert {weights.row for weights in PUBLISHED.values() if weights.row} == printed
    for weights in PUBLISHED.values():
        assert weights.license in CATALOG[weights.system].weights_license
        ways = (weights.url, weights.drive_file, weights.drive_folder, weights.hub)
        assert sum(map(bool, ways)) == (weights.system != "msm_mae")
    assert command("list") == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in PUBLISHED) and "CC-BY-NC-4.0" in listed


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What every URL answers with; None if there is no connection."""
    state = SimpleNamespace(content=None, asked=0)

    def answer(url: str, **_: object) -> requests.Response:
        state.asked += 1
        if state.content is None:
            raise requests.ConnectionError("no route")
        file = tmp_path / "answer"
        file.write_bytes(state.content)
        response = requests.Response()
        response.status_code, response.raw = 200, file.open("rb")
        return response

    monkeypatch.setattr(requests, "get", answer)
    return state


def test_a_file_comes_once_and_is_checked(tmp_path: Path, web: SimpleNamespace) -> None:
    beats, folder = PUBLISHED["beats"], tmp_path / "cache"
    with pytest.raises(WeightsError, match=r"no connection to the server.*in a browser"):
        get(beats, folder)
    web.content = b"<html>quota</html>"
    with pytest.raises(WeightsError, match="what came does not load"):
        get(beats, folder)
    (tmp_path / "w").mkdir()
    web.content = write.beats(tmp_path / "w").read_bytes()
    path = get(beats, folder)
    assert path == folder / "BEATs_iter3.pt" and path.read_bytes() == web.content
    asked = web.asked
    assert get(beats, folder) == path and web.asked == asked
    path.unlink()
    web.content = write.beats(tmp_path / "w", seed=1).read_bytes()
    with pytest.raises(WeightsError, match=r"differs from the first download.*delete"):
        get(beats, folder)
    assert not path.exists()


def test_a_known_checksum_is_compared(tmp_path: Path, web: SimpleNamespace) -> None:
    web.content = write.passt(tmp_path).read_bytes()
    with pytest.raises(WeightsError, match="another checksum"):
        get(PUBLISHED["passt"], tmp_path / "cache")
    right = replace(PUBLISHED["passt"], sha256=hashlib.sha256(web.content).hexdigest())
    assert get(right, tmp_path / "cache").is_file()


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
    run = get(PUBLISHED["ssam-tiny"], tmp_path)
    assert run.name == "ssam_tiny_200_16x4_4x256_fp16_r1"
    assert [path.name for path in run.rglob("*.pth")] == ["checkpoint-100.pth"]
    write.mwmae(drive, orbax=True)
    run = get(PUBLISHED["mwmae-base"], tmp_path)
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert files == {"config.json", "checkpoint_20/checkpoint"}
    with pytest.raises(WeightsError, match=r"no checkpoint of a run ssam_base_200_16x4\*, but"):
        get(PUBLISHED["ssam-base"], tmp_path)
    found = find(tmp_path, [PUBLISHED["ssam-tiny"], PUBLISHED["mwmae-base"], PUBLISHED["beats"]])
    assert {weights.name for weights in found} == {"ssam-tiny", "mwmae-base"}


def test_the_first_of_several_runs() -> None:
    listed = {
        f"x/ssam_base_200_16x4_r{r}/checkpoints/checkpoint-{n}.pth": f"{r}-{n}"
        for r in (2, 1)
        for n in (9, 10)
    }
    run, files = choose(listed, PUBLISHED["ssam-base"])
    assert run == "ssam_base_200_16x4_r1"
    assert files == {"checkpoints/checkpoint-10.pth": "1-10"}


def test_what_is_not_downloaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WeightsError, match=r"msm-mae is not downloaded here \(NTT"):
        command("get", ("msm-mae",), to=tmp_path)
    with pytest.raises(WeightsError, match="huggingface@microsoft/wavlm-large"):
        command("get", ("wavlm-large",), to=tmp_path)
    with pytest.raises(WeightsError, match="unknown weights 'x'"):
        command("get", ("x",), to=tmp_path)


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
