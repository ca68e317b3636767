"""Packing from manifests and tars, and telling beforehand what a pack will take."""

import csv
import functools
import http.server
import io
import os
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.audio.listing import SourceError
from hear_axlstm.audio.mel import LogMel
from hear_axlstm.audio.skipped import Skipped
from hear_axlstm.audio.sources import FolderSource, TableSource, open_source
from hear_axlstm.audio.tables import TableError
from hear_axlstm.data.corpus import Corpus
from hear_axlstm.data.estimate import estimate_pack
from hear_axlstm.data.pack import pack
from tests.helpers.platforms import posix_only


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """Six files of 2 s in three formats."""
    folder = tmp_path / "audio"
    folder.mkdir()
    for number in range(6):
        samples = np.random.default_rng(number).normal(0, 0.1, 32_000)
        suffix = ("wav", "flac", "ogg")[number % 3]
        soundfile.write(folder / f"{number}.{suffix}", samples, 16_000)
    return folder


def clips(folder: Path) -> dict[str, np.ndarray]:
    corpus = Corpus(folder)
    return {name.decode(): corpus.clip(at) for at, name in enumerate(corpus.index.ids())}


def reasons(folder: Path) -> dict[str, str]:
    with open(folder / "report.csv", encoding="utf-8", newline="") as file:
        return {row["id"]: row["reason"] for row in csv.DictReader(file)}


def test_a_pattern_leaves_out_what_commands_wrote(audio: Path) -> None:
    (audio / "s.npy.report.csv").write_text("id,reason\n0.wav,silent\n", "utf-8")
    (audio / "s.npy.parts").mkdir()
    (audio / "s.npy.parts" / "request.json").touch()
    found = [clip.id for clip in open_source(f"{audio}/*").clips()]
    assert [Path(name).name for name in found] == sorted(
        path.name for path in audio.glob("[0-9].*")
    )


@pytest.mark.parametrize("name", ["a.wav", "list.csv"])
def test_of_urls_only_tars_are_read(name: str) -> None:
    with pytest.raises(SourceError, match=f"{name}: only tars are read from URLs: download"):
        open_source(f"https://host.example/{name}")


def write_tar(path: Path, members: list[Path]) -> None:
    with tarfile.open(path, "w") as tar:
        for member in members:
            tar.add(member, member.name)
            info = tarfile.TarInfo(f"{member.stem}.json")
            info.size = 2
            tar.addfile(info, io.BytesIO(b"{}"))


@pytest.fixture
def tars(audio: Path, tmp_path: Path) -> Path:
    """Two tars with three of the files each; the pattern that means both."""
    members = sorted(audio.iterdir())
    write_tar(tmp_path / "part-0.tar", members[:3])
    write_tar(tmp_path / "part-1.tar", members[3:])
    return tmp_path / "part-{0..1}.tar"


def test_a_manifest_gives_spans(audio: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text(
        "# segments\n"
        "path, start_seconds, end_seconds, labels\n"
        'audio/0.wav, 0.5, 1.5, "/m/1,/m/2"\n'
        "audio/0.wav, , 1, x\n"
        "audio/1.flac, 1.25, 9, x\n"
        f"{audio / '3.wav'}, , , x\n"
        "audio/4.flac, 2.5, 3, x\n"
        "audio/4.flac, 1, 0.5, x\n"
        "audio/4.flac, one, 2, x\n"
        "audio/gone.wav, 0, 1, x\n"
        ", 0, 1, x\n",
        "utf-8",
    )
    report = pack(manifest, tmp_path / "pack")
    found, left_out = clips(tmp_path / "pack"), reasons(tmp_path / "pack")
    assert list(found) == [
        "audio/0.wav@0.5-1.5", "audio/0.wav@-1", "audio/1.flac@1.25-9", str(audio / "3.wav")
    ]  # fmt: skip
    assert [len(frames) for frames in found.values()] == [101, 101, 76, 201]
    samples, _ = soundfile.read(audio / "0.wav", dtype="float32")
    expected = LogMel()(torch.from_numpy(samples[None, 8_000:24_000]))[0]
    actual = torch.from_numpy(found["audio/0.wav@0.5-1.5"].astype(np.float32))
    torch.testing.assert_close(actual, expected, atol=8e-3, rtol=1e-3)
    assert {name: reason.split(":")[0] for name, reason in left_out.items()} == {
        "audio/4.flac@2.5-3": "too short",
        "audio/4.flac@1-0.5": "no valid span",
        "audio/4.flac@one-2": "no valid span",
        "audio/gone.wav@0-1": "no such file",
        "row 9": "no path",
    }
    assert report.skipped["no valid span"] == 2


def test_a_tsv_with_bare_paths_equals_the_folder(audio: Path, tmp_path: Path) -> None:
    rows = sorted(path.name for path in audio.iterdir())
    (audio / "list.tsv").write_text(
        "label\tpath\n" + "".join(f"x\t{row}\n" for row in rows), "utf-8"
    )
    pack(audio / "list.tsv", tmp_path / "listed")
    pack(audio, tmp_path / "whole")
    listed, whole = clips(tmp_path / "listed"), clips(tmp_path / "whole")
    assert list(listed) == list(whole) == rows
    assert all(np.array_equal(listed[name], whole[name]) for name in rows)


@posix_only
@pytest.mark.parametrize("place", ["beside the link", "beside the target"])
@pytest.mark.parametrize("name", ["audio/0.wav", "0.wav"])
def test_a_linked_manifest_is_read_beside_the_link_or_its_target(
    name: str, place: str, tmp_path: Path
) -> None:
    for folder in ("snapshots/1", "blobs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "blobs" / "c0ffee").write_text(f"path\n{name}\ngone.wav\n", "utf-8")
    link = tmp_path / "snapshots" / "1" / "list.csv"
    link.symlink_to("../../blobs/c0ffee")
    above = link.parent if place == "beside the link" else tmp_path / "blobs"
    (above / "audio").mkdir()
    (above / "audio" / "0.wav").touch()
    found = [clip.source for clip in TableSource(link).clips() if isinstance(clip, AudioClip)]
    assert found == [str(above / "audio" / "0.wav"), str(link.parent / "gone.wav")]


def test_a_manifest_that_can_not_be_meant_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist: check the path"):
        open_source(tmp_path / "gone.csv")
    (tmp_path / "a.csv").write_text("sound,start\na.wav,0\n", "utf-8")
    with pytest.raises(TableError, match="no column 'path': its header has sound, start"):
        open_source(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("path,start\n", "utf-8")
    with pytest.raises(SourceError, match="lists no clips"):
        open_source(tmp_path / "b.csv")


def test_tars_equal_the_files_in_them(audio: Path, tars: Path, tmp_path: Path) -> None:
    pack(tars, tmp_path / "one", workers=1)
    pack(tars, tmp_path / "two", workers=2)
    found = clips(tmp_path / "one")
    assert [name.split("/")[0] for name in found] == 3 * ["part-0.tar"] + 3 * ["part-1.tar"]
    pack(audio, tmp_path / "whole")
    for name, frames in clips(tmp_path / "whole").items():
        tar = f"part-{int(name[0]) // 3}.tar"
        assert np.array_equal(found[f"{tar}/{name}"], frames)
    for name in ("shard-00000.f16", "shard-00001.f16", "index.npz"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_damaged_tars_lose_only_their_rest(tars: Path, tmp_path: Path) -> None:
    first = tmp_path / "part-0.tar"
    with tarfile.open(first) as tar:
        end = tar.getmember("1.flac").offset_data + 100
    os.truncate(first, end)
    pattern = str(tars).replace("1}", "2}")  # a third one, which is not there
    report = pack(pattern, tmp_path / "pack", workers=1)
    assert report.clips == 4 and report.skipped == {"cut off": 2}
    assert "part-2.tar" in reasons(tmp_path / "pack")
    with pytest.raises(SourceError, match="does not exist"):
        pack(tmp_path / "part-7.tar", tmp_path / "none", workers=1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_tars_by_url_and_a_broken_connection_is_tried_again(
    server: str, tars: Path, tmp_path: Path
) -> None:
    whole = pack(f"{server}/{tars.name}", tmp_path / "whole", workers=1)
    assert whole.clips == 6 and not whole.skipped
    (tmp_path / "part-1.tar").rename(tmp_path / "away")
    partly = pack(f"{server}/{tars.name}", tmp_path / "again", workers=1)
    assert partly.clips == 3 and len(reasons(tmp_path / "again")) == 1
    (tmp_path / "away").rename(tmp_path / "part-1.tar")
    first = (tmp_path / "again" / "shard-00000.f16").stat().st_mtime_ns
    assert pack(f"{server}/{tars.name}", tmp_path / "again", workers=1).clips == 6
    assert (tmp_path / "again" / "shard-00000.f16").stat().st_mtime_ns == first
    assert Corpus(tmp_path / "again").fingerprint == Corpus(tmp_path / "whole").fingerprint


def test_the_front_end_on_a_device_equals_the_workers(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(audio / "odd.wav", np.random.default_rng(9).normal(0, 0.1, 9_999), 16_000)
    (audio / "broken.wav").write_bytes(b"RIFF")
    pack(audio, tmp_path / "plain", workers=1)
    monkeypatch.setattr("hear_axlstm.data.pack.front_end_device", lambda: torch.device("cpu"))
    pack(audio, tmp_path / "device", workers=1)
    plain, device = clips(tmp_path / "plain"), clips(tmp_path / "device")
    assert list(plain) == list(device) and len(plain) == 7
    for name, frames in plain.items():
        np.testing.assert_allclose(device[name], frames, atol=8e-3)  # a step of float16
    assert reasons(tmp_path / "plain") == reasons(tmp_path / "device")


def test_an_estimate_comes_close_and_writes_nothing(audio: Path, tmp_path: Path) -> None:
    (audio / "broken.wav").write_bytes(b"RIFF")
    told = estimate_pack(audio, tmp_path / "pack", workers=1)
    assert not (tmp_path / "pack").exists()
    report = pack(audio, tmp_path / "pack", workers=1)
    assert (told.clips, told.sampled) == (7, 7) and told.usable == pytest.approx(6 / 7)
    assert told.hours == pytest.approx(report.hours)
    assert told.bytes == (tmp_path / "pack" / "shard-00000.f16").stat().st_size
    assert "7 of 7 clips" in str(told) and told.seconds > 0


def test_an_estimate_extrapolates(
    audio: Path, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hear_axlstm.data.estimate.SAMPLE_PER_WORKER", 2)
    for source in (audio, tars):
        told = estimate_pack(source, tmp_path / "pack", workers=1)
        assert (told.clips, told.sampled) == (6, 2)
        assert told.hours == pytest.approx(12 / 3600, rel=0.01)


def test_many_files_make_larger_groups_not_more(audio: Path) -> None:
    source = FolderSource(audio)
    assert [group.size for group in source.groups(1)] == 6 * [1]
    assert [group.size for group in source.groups(1, most=3)] == 3 * [2]


def test_a_name_stays_when_files_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def names() -> list[str]:
        listed = io.BytesIO(b"\n".join(map(os.fsencode, files)))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(listed, encoding="utf-8"))
        inputs = ("*/*.wav", "[a-c]", ["-", "*/*.wav"], files, [*files, "b"])
        return [open_source(given).name for given in inputs]

    def add(*paths: str) -> list[str]:
        for path in map(Path, paths):
            path.parent.mkdir()
            path.touch()
        return sorted(str(path) for path in Path().glob("*/*.wav"))

    files = add("b/0.wav", "c/0.wav")
    before = names()
    files = add("a/0.wav")
    assert names() == before
    here = Path.cwd()
    assert before == [
        f"{here}/*/*.wav",
        f"{here}/[a-c]",
        f"{here}/*/*.wav, files in {here}",
        f"files in {here}",
        f"{here}/b, files in {here}",
    ]
    files = ["b/0.wav"]
    assert names()[2] == f"{here}/*/*.wav, {here}/b/0.wav"
    assert open_source("b/0.wav").name == f"{here}/b/0.wav" != open_source("b").name


def test_several_sources_are_sampled_by_their_size(tmp_path: Path) -> None:
    for name, clips in (("a", 0), ("b", 30), ("c", 10)):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for number in range(clips):
                member = tarfile.TarInfo(f"{number}.wav")
                member.size = 4
                tar.addfile(member, io.BytesIO(b"RIFF"))
    tars = sorted(tmp_path.glob("*.tar"))
    clips, total = open_source(tars).sample(8)
    assert total == 40
    assert Counter(clip.id.split("/")[0] for clip in clips) == {"b.tar": 6, "c.tar": 2}
    assert open_source([tars[0], tars[0]]).sample(8) == ([], 0)


def test_groups_hold_the_clips_in_order(audio: Path, tars: Path) -> None:
    for inputs in (audio, tars, (audio, tars)):
        source = open_source(inputs)
        groups = [list(group.clips) for group in source.groups(4)]
        assert [clip for group in groups for clip in group] == list(source.clips())
        assert len(groups) > 1


def test_reasons_are_counted_by_kind() -> None:
    for reason, kind in (
        ("too short: 160 samples, but 400 are needed", "too short"),
        ("not decodable (Format not recognised): copy it", "not decodable"),
        ("truncated, its header tells of more data: copy it again", "truncated"),
    ):
        assert Skipped("a.wav", reason).kind == kind
