"""Rebuilding the open corpus from a small git repository."""

from __future__ import annotations

import csv
import gzip
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from scripts.corpus.clips import RATE, decode
from scripts.corpus.collect import Collector, collect
from scripts.corpus.overlaps import Index, correlation
from scripts.corpus.repositories import FetchError, fetch, open_tree
from scripts.corpus.reserved import has_reserved_name, read_reserved
from scripts.corpus.sources import ACCEPTED, Source, read_sources

REPOSITORY = "someone/sounds"
LENGTHS = {  # seconds
    "long.wav": 25.0,
    "free/a.wav": 4.0,
    "free/b.flac": 3.0,
    "free/copy-of-a.wav": 4.0,
    "short/1.wav": 0.5,
    "short/2.wav": 0.7,
    "gpl/c.wav": 3.0,
    "voice/d.wav": 3.0,
    "1-12345-A-7.wav": 3.0,
}
SOURCES = "repository,revision,kind,license,license_class,include,exclude,max_hours,pieces,note\n"
FILES = (
    "repository,glob,license,license_class\n"
    f"{REPOSITORY},gpl/*,GPL-2.0,gpl\n"
    f"{REPOSITORY},voice/*,,excluded\n"
    f"{REPOSITORY},short/2.wav,CC BY-SA 4.0,share-alike\n"
)


def git(folder: Path, *args: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    command = ["git", "-C", str(folder), *identity, *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def noise(seconds: float, seed: int, rate: int = 22_050) -> np.ndarray:
    """Low noise without silence, louder and softer four times a second."""
    time = np.arange(int(seconds * rate)) / rate
    low = np.convolve(np.random.default_rng(seed).normal(0, 0.1, len(time)), np.ones(8) / 8, "same")
    return low * (1.1 + np.sin(8 * np.pi * time))


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Server folder with one repository; its newest commit deletes everything again."""
    folder = tmp_path_factory.mktemp("server") / REPOSITORY
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    for seed, (name, seconds) in enumerate(LENGTHS.items()):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, noise(seconds, 1 if name.endswith("a.wav") else seed), 22_050)
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "sounds")
    git(folder, "rm", "--quiet", "-r", ".")
    git(folder, "commit", "--quiet", "-m", "nothing left")
    return folder.parents[1]


@pytest.fixture(scope="module")
def revision(origin: Path) -> str:
    return git(origin / REPOSITORY, "rev-parse", "HEAD~1")


@pytest.fixture(scope="module")
def repositories(origin: Path, revision: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("repositories")
    fetch(REPOSITORY, revision, parent, server=origin.as_uri())
    return parent


def sources(folder: Path, revision: str, max_hours: str = "", include: str = "*") -> list[Source]:
    terms = "environment,CC0 1.0,permissive"
    row = f"{REPOSITORY},{revision},{terms},{include},,{max_hours},2,\n"
    (folder / "sources.csv").write_text(SOURCES + row, "utf-8")
    (folder / "files.csv").write_text(FILES, "utf-8")
    return read_sources(folder / "sources.csv", folder / "files.csv")


def build(out: Path, rows: list[Source], repositories: Path, reserved=frozenset(),
          accepted=ACCEPTED) -> Collector:  # fmt: skip
    collector = Collector(out, reserved, accepted)
    assert collect(rows, repositories, collector) == []
    return collector


def manifest(out: Path) -> list[dict[str, str]]:
    with (out / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def used(out: Path) -> set[str]:
    """Files that a corpus holds a part of."""
    parts = [part for row in manifest(out) for part in row["original"].split(" | ")]
    return {part.rpartition("@")[0] for part in parts}


def reasons(collector: Collector) -> dict[str, str]:
    return {path: reason for _, path, reason in collector.skipped}


def test_clips_are_the_pinned_commits_audio_without_gpl_excluded_and_reserved_files(
    repositories: Path, revision: str, tmp_path: Path
) -> None:
    collector = build(tmp_path / "out", sources(tmp_path, revision), repositories)
    rows = manifest(tmp_path / "out")
    found = used(tmp_path / "out")
    assert len(found & {"free/a.wav", "free/copy-of-a.wav"}) == 1
    assert found - {"free/a.wav", "free/copy-of-a.wav"} == {
        "long.wav", "free/b.flac", "short/1.wav", "short/2.wav",
    }  # fmt: skip
    assert set(reasons(collector).values()) == {"license class gpl", "reserved: name", "copy"}
    assert reasons(collector)["gpl/c.wav"] == "license class gpl"
    for row in rows:
        info = soundfile.info(tmp_path / "out" / row["clip"])
        assert (info.samplerate, info.channels) == (16_000, 1) and info.duration <= 10
        assert info.duration == pytest.approx(float(row["seconds"]), abs=1e-3)
        assert row["revision"] == revision
    long = [row for row in rows if row["original"].startswith("long.wav")]
    assert [float(row["seconds"]) for row in long] == pytest.approx(
        [10, 5], abs=0.01
    )  # two of three
    (joined,) = [row for row in rows if "short/" in row["original"]]
    assert joined["license_class"] == "share-alike"
    assert set(joined["license"].split(" + ")) == {"CC0 1.0", "CC BY-SA 4.0"}
    assert 1.3 <= float(joined["seconds"]) <= 1.5  # 0.5 s, 0.7 s and a gap


def test_a_clip_is_the_resampled_file(repositories: Path, revision: str, tmp_path: Path) -> None:
    build(tmp_path / "out", sources(tmp_path, revision), repositories)
    (row,) = [row for row in manifest(tmp_path / "out") if "b.flac" in row["original"]]
    clip, _ = soundfile.read(tmp_path / "out" / row["clip"])
    original = noise(3.0, list(LENGTHS).index("free/b.flac"))
    spectrum = np.fft.rfft(original)[: len(clip) // 2 + 1]  # ideal resampling of 3 s to 16 kHz
    expected = np.fft.irfft(spectrum, len(clip)) * len(clip) / len(original)
    inner = slice(800, -800)
    assert np.corrcoef(clip[inner], expected[inner])[0, 1] > 0.99


def test_two_builds_are_equal(repositories: Path, revision: str, tmp_path: Path) -> None:
    rows = sources(tmp_path, revision)
    for name in ("one", "two"):
        build(tmp_path / name, rows, repositories)
    one, two = ({p.relative_to(tmp_path / name): p.read_bytes()
                 for p in (tmp_path / name).rglob("*") if p.is_file()}
                for name in ("one", "two"))  # fmt: skip
    assert one == two and len(one) > 5


def test_gpl_files_are_taken_when_accepted(
    repositories: Path, revision: str, tmp_path: Path
) -> None:
    build(tmp_path / "out", sources(tmp_path, revision), repositories, accepted=["gpl"])
    assert used(tmp_path / "out") == {"gpl/c.wav"}


def test_reserved_content_is_left_out_under_any_name(
    origin: Path, repositories: Path, revision: str, tmp_path: Path
) -> None:
    blob = git(origin / REPOSITORY, "rev-parse", f"{revision}:long.wav")
    reserved = frozenset([blob[:12]])
    collector = build(tmp_path / "out", sources(tmp_path, revision), repositories, reserved)
    assert "long.wav" not in used(tmp_path / "out")
    assert reasons(collector)["long.wav"] == "reserved: content"


def test_a_source_stops_at_its_share(repositories: Path, revision: str, tmp_path: Path) -> None:
    share = 8.0
    rows = sources(tmp_path, revision, max_hours=str(share / 3600))
    build(tmp_path / "out", rows, repositories)
    seconds = [float(row["seconds"]) for row in manifest(tmp_path / "out")]
    assert share <= sum(seconds) < share + 10  # within one clip of the share


def test_without_include_only_files_with_a_rule_are_taken(
    repositories: Path, revision: str, tmp_path: Path
) -> None:
    build(tmp_path / "out", sources(tmp_path, revision, include=""), repositories)
    assert used(tmp_path / "out") == {"short/2.wav"}


def test_repositories_that_are_not_fetched_are_named(revision: str, tmp_path: Path) -> None:
    collector = Collector(tmp_path / "out")
    assert collect(sources(tmp_path, revision), tmp_path, collector) == [REPOSITORY]
    with pytest.raises(FileExistsError, match="not empty"):
        collect([], tmp_path, Collector(tmp_path / "out"))
    with pytest.raises(FetchError, match="someone/else"):
        fetch("someone/else", revision, tmp_path, server=tmp_path.as_uri())


def test_another_version_of_a_package_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*command: str, cwd: str | None = None) -> None:
        """Stand in for apt-get and dpkg-deb: the audio file is the name of the package's file."""
        if command[0] == "apt-get":
            (Path(str(cwd)) / f"{command[-1]}.deb").touch()
        else:
            Path(command[-1]).mkdir()
            (Path(command[-1]) / "a.wav").write_text(Path(command[-2]).name, "utf-8")

    monkeypatch.setattr("scripts.corpus.repositories._run", run)
    for version in ("1.0-1", "1.1-1", "1.0-1"):
        fetch("debian/sounds", version, tmp_path)
        with open_tree("debian/sounds", version, tmp_path) as tree:
            (item,) = tree.blobs().items()
            assert tree.read(*item) == f"sounds={version}.deb".encode()
    absent = open_tree("debian/sounds", "1.2-1", tmp_path)
    with pytest.raises(FileNotFoundError, match="fetch it first"), absent:
        pass


def test_the_shipped_lists_are_whole(tmp_path: Path) -> None:
    rows = read_sources()
    assert {row.kind for row in rows} == {"speech", "music", "environment"}
    for row in rows:
        assert len(row.revision) == 40 or row.repository.startswith("debian/")
        assert row.license.license_class in ACCEPTED
    reserved = read_reserved()
    assert all(len(blob) == 12 and int(blob, 16) >= 0 for blob in reserved)
    (tmp_path / "blobs.txt.gz").write_bytes(gzip.compress(b"0123456789ab\nba9876543210\n"))
    assert read_reserved(tmp_path / "blobs.txt.gz") == {"0123456789ab", "ba9876543210"}


def test_names_of_evaluation_sets_are_reserved() -> None:
    for path in ("audio/1-100032-A-0.wav", "yes/0a7c2a8d_nohash_0.wav", "19-198-0000.flac",
                 "03-01-05-01-02-01-12.wav", "0_jackson_12.wav"):  # fmt: skip
        assert has_reserved_name(path), path
    for path in ("sounds/rain-01.ogg", "2-steps.wav", "jackson.wav"):
        assert not has_reserved_name(path), path


def test_copies_are_found_through_cutting_coding_and_another_level(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)

    def melody(notes: int) -> np.ndarray:
        time = np.arange(RATE // 5) / RATE
        tones = [np.sin(2 * np.pi * f * time) + np.sin(4 * np.pi * f * time)
                 for f in rng.uniform(150, 2000, notes)]  # fmt: skip
        wave = np.concatenate([tone * np.exp(-8 * time) for tone in tones])
        return (0.2 * wave + rng.normal(0, 0.002, len(wave))).astype(np.float32)

    evaluation = {name: melody(25) for name in ("first", "second", "third")}
    evaluation["long"] = melody(600)  # two minutes
    index = Index(evaluation.items())
    copy = 0.3 * evaluation["second"][RATE + 123 : 4 * RATE]
    soundfile.write(tmp_path / "copy.ogg", copy, RATE, format="OGG", subtype="VORBIS")
    copied = decode((tmp_path / "copy.ogg").read_bytes())
    found = index.best(copied)
    assert found is not None and found.name == "second"
    assert correlation(evaluation["second"], copied) > 0.9
    assert correlation(evaluation["second"], melody(25)) < 0.6
    excerpt = index.best(evaluation["long"][-5 * RATE :])
    assert excerpt is not None and excerpt.name == "long"
    other = index.best(melody(25))
    assert found.agreeing > 12 > (other.agreeing if other else 0)
