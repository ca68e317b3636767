"""Packing a folder of audio: what is stored, what is left out, what is done again."""

import csv
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hear_axlstm.audio.listing import SourceError
from hear_axlstm.audio.mel import LogMel
from hear_axlstm.config import MelConfig
from hear_axlstm.data.corpus import Corpus, PackError
from hear_axlstm.data.estimate import estimate_pack
from hear_axlstm.data.pack import pack
from hear_axlstm.data.shards import Shard, by_shard


def write_noise(path: Path, seconds: float, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).normal(0, 0.1, int(16_000 * seconds))
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    return samples.astype(np.float32)


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    for seed, seconds in enumerate([1.0, 2.5, 0.3, 4.0, 1.7]):
        write_noise(tmp_path / "audio" / f"part{seed % 2}" / f"{seed}.wav", seconds, seed)
    return tmp_path / "audio"


def files(folder: Path) -> dict[str, bytes]:
    """Content of a pack, but for the time stamps that a zip archive carries."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "index.npz"}


def ids(corpus: Corpus) -> list[str]:
    return [clip_id.decode() for clip_id in corpus.index.ids()]


def reasons(folder: Path) -> dict[str, str]:
    """What the report of a pack says about each file that was left out."""
    with open(folder / "report.csv", encoding="utf-8", newline="") as file:
        return {row["id"]: row["reason"] for row in csv.DictReader(file)}


def test_stored_frames_are_the_log_mel_of_the_file(audio: Path, tmp_path: Path) -> None:
    report = pack(audio, tmp_path / "pack")
    corpus = Corpus(tmp_path / "pack")
    assert report.clips == len(corpus) == 5 and not report.skipped
    assert ids(corpus) == sorted(ids(corpus))
    assert report.hours * 3600 == pytest.approx(9.5, abs=0.05)
    for clip, clip_id in enumerate(ids(corpus)):
        samples, _ = soundfile.read(audio / clip_id, dtype="float32")
        expected = LogMel()(torch.from_numpy(samples)[None])[0]
        stored = torch.from_numpy(corpus.clip(clip).astype(np.float32))
        torch.testing.assert_close(stored, expected, atol=8e-3, rtol=1e-3)
        std, mean = torch.std_mean(expected)
        assert corpus.index.mean[clip] == pytest.approx(mean.item(), abs=1e-3)
        assert corpus.index.std[clip] == pytest.approx(std.item(), rel=1e-3)


def test_unusable_files_are_listed_and_stop_nothing(audio: Path, tmp_path: Path) -> None:
    (audio / "broken.wav").write_bytes(b"RIFF but no more")
    (audio / "empty.flac").touch()
    (audio / "song.m4a").write_bytes(b"....ftypM4A ")
    (audio / "notes.txt").write_text("no audio, no word about it", "utf-8")
    soundfile.write(audio / "silent.wav", np.zeros(16_000), 16_000)
    soundfile.write(audio / "offset.wav", np.full(16_000, 0.3), 16_000)
    write_noise(audio / "click.wav", 0.01)
    report = pack(audio, tmp_path / "pack")
    found = reasons(tmp_path / "pack")
    assert report.clips == 5
    assert found.keys() == {
        "broken.wav", "empty.flac", "song.m4a", "silent.wav", "offset.wav", "click.wav"
    }  # fmt: skip
    assert "decodable" in found["broken.wav"] and "silent" in found["offset.wav"]
    assert "too short: 160 samples" in found["click.wav"]
    assert sum(report.skipped.values()) == 6 and report.skipped["silent"] == 2
    assert "WARNING: 55%, 6 of 11 left out (silent: 2, " in str(report)


@pytest.mark.parametrize("command", [pack, estimate_pack])
def test_no_workers_are_refused(
    command: Callable[..., object], audio: Path, tmp_path: Path
) -> None:
    with pytest.raises(PackError, match="workers=-3 must be 1 or more"):
        command(audio, tmp_path / "out", workers=-3)


def test_a_folder_without_usable_audio_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        pack(tmp_path / "missing", tmp_path / "pack")
    (tmp_path / "audio").mkdir()
    with pytest.raises(SourceError, match="contains no audio"):
        pack(tmp_path / "audio", tmp_path / "pack")
    (tmp_path / "audio" / "a.wav").touch()
    with pytest.raises(PackError, match=r"no usable audio in .*, 1 file left out, e\.g\."):
        pack(tmp_path / "audio", tmp_path / "pack")


def test_the_result_does_not_depend_on_workers(audio: Path, tmp_path: Path) -> None:
    pack(audio, tmp_path / "one", workers=1)
    pack(audio, tmp_path / "two", workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_only_what_changed_is_made_again(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hear_axlstm.data.pack.CLIPS_PER_SHARD", 2)
    made: list[int] = []
    write = Shard.write

    def note_and_write(shard: Shard, found: Iterable) -> None:
        made.append(shard.number)
        write(shard, found)

    monkeypatch.setattr(Shard, "write", note_and_write)
    out = tmp_path / "pack"
    pack(audio, out)
    assert made == [0, 1, 2]
    pack(audio, out)
    assert made == [0, 1, 2], "an unchanged folder is packed once"

    made.clear()
    write_noise(audio / "part1" / "3.wav", 2.0, seed=9)  # the last file, in the last shard
    pack(audio, out)
    assert made == [2]

    made.clear()
    with open(out / "shard-00001.f16", "rb+") as file:
        file.truncate(100)
    with pytest.raises(PackError, match="has 100 bytes instead of"):
        Corpus(out)
    pack(audio, out)
    assert made == [1]

    for number in (2, 4):
        (audio / "part0" / f"{number}.wav").unlink()
    assert pack(audio, out).clips == 3
    assert len(list(out.glob("shard-*.f16"))) == 2, "shards without files are removed"


def test_results_are_split_by_shard(tmp_path: Path) -> None:
    todo = {number: Shard(tmp_path, number, "", ()) for number in (1, 3, 4)}
    found = by_shard(todo, iter([(3, "a"), (3, "b"), (4, "c")]))
    split = [(shard.number, list(results)) for shard, results in found]
    assert split == [(3, ["a", "b"]), (4, ["c"]), (1, [])]  # shards without results come last


def test_an_interrupted_pack_goes_on(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hear_axlstm.data.pack.CLIPS_PER_SHARD", 2)
    pack(audio, tmp_path / "whole")
    write = Shard.write

    def interrupted(shard: Shard, found: Iterable) -> None:
        if shard.number == 1:
            raise KeyboardInterrupt
        write(shard, found)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Shard, "write", interrupted)
        pack(audio, tmp_path / "resumed")
    with pytest.raises(PackError, match="not a finished pack"):
        Corpus(tmp_path / "resumed")
    first = (tmp_path / "resumed" / "shard-00000.f16").stat().st_mtime_ns
    pack(audio, tmp_path / "resumed")
    assert (tmp_path / "resumed" / "shard-00000.f16").stat().st_mtime_ns == first
    assert files(tmp_path / "resumed") == files(tmp_path / "whole")


def test_packs_are_not_mixed_or_overwritten(audio: Path, tmp_path: Path) -> None:
    out = tmp_path / "pack"
    pack(audio, out)
    with pytest.raises(PackError, match=r"other mel settings \(f_min\)"):
        pack(audio, out, replace(MelConfig(), f_min=60.0))
    write_noise(tmp_path / "other" / "a.wav", 1.0)
    with pytest.raises(PackError, match="is a pack of"):
        pack(tmp_path / "other", out)
    with pytest.raises(PackError, match="contains other files"):
        pack(audio, tmp_path / "other")
    assert len(Corpus(out)) == 5


def test_what_a_killed_pack_leaves_is_no_other_file(audio: Path, tmp_path: Path) -> None:
    out = tmp_path / "pack"
    out.mkdir()
    for name in ("pack.json", "shard-00000.json", "shard-00000.f16"):
        (out / f"{name}.0a-1-2b.partial").touch()
    assert pack(audio, out).clips == 5


@pytest.mark.parametrize(
    "name", ["shard-000000.tar", "shard-000.json", "shard-list.txt", "report.csv"]
)
def test_files_of_others_are_neither_replaced_nor_removed(
    name: str, audio: Path, tmp_path: Path
) -> None:
    out = tmp_path / "pack"
    out.mkdir()
    (out / name).write_text("precious", "utf-8")
    with pytest.raises(PackError, match=rf"contains other files, e\.g\. {name}: choose a new"):
        pack(audio, out)
    (out / name).rename(tmp_path / name)
    pack(audio, out)
    if name == "report.csv":
        return
    (tmp_path / name).rename(out / name)
    (audio / "part0" / "0.wav").unlink()
    assert pack(audio, out).clips == 4
    assert (out / name).read_text("utf-8") == "precious"


@pytest.mark.slow
def test_a_killed_pack_goes_on(tmp_path: Path) -> None:
    for seed in range(1500):
        write_noise(tmp_path / "audio" / f"{seed}.wav", 2.0, seed)
    pack(tmp_path / "audio", tmp_path / "whole", workers=1)
    out = tmp_path / "killed"
    program = "import sys; from hear_axlstm.data.pack import pack; pack(*sys.argv[1:], workers=1)"
    command = [sys.executable, "-c", program, str(tmp_path / "audio"), str(out)]
    for shards in (1, 3):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and not [*out.glob(f"shard-{shards:05d}.f16.*")]:
                time.sleep(0.002)
            process.kill()
        assert process.returncode and not (out / "pack.json").exists()
        assert len(list(out.glob("shard-*.json"))) >= shards
    pack(tmp_path / "audio", out, workers=1)
    assert files(out) == files(tmp_path / "whole")


def test_a_pack_stays_while_the_disk_of_its_audio_is_missing(audio: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("path\n" + "".join(f"{p}\n" for p in sorted(audio.rglob("*.wav"))), "utf-8")
    pack(table, tmp_path / "pack", workers=1)
    before = files(tmp_path / "pack")
    audio.rename(tmp_path / "elsewhere")
    with pytest.raises(PackError, match="check that its disk is mounted"):
        pack(table, tmp_path / "pack", workers=1)
    assert files(tmp_path / "pack") == before


def test_a_pack_that_changes_while_it_is_read_is_an_error(audio: Path, tmp_path: Path) -> None:
    pack(audio, tmp_path / "pack", workers=1)
    corpus = Corpus(tmp_path / "pack")
    for path in sorted(audio.rglob("*.wav")):
        write_noise(path, soundfile.info(path).duration, seed=1)
    pack(audio, tmp_path / "pack", workers=1)
    with pytest.raises(PackError, match="was packed again"):
        corpus.clip(0)


def test_an_estimate_weighs_sources_by_their_size(tmp_path: Path) -> None:
    for folder, clips, seconds in (("many", 96, 0.5), ("few", 2, 10.0)):
        (tmp_path / folder).mkdir()
        for number in range(clips):
            write_noise(tmp_path / folder / f"{number}.wav", seconds)
    found = estimate_pack([tmp_path / "many", tmp_path / "few"], tmp_path / "pack", workers=1)
    assert found.sampled == 64 and found.hours * 3600 == pytest.approx(68, rel=0.2)
