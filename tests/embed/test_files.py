"""`axlstm embed`: mixed folders, every form of output, interruptions, several processes."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hear_axlstm import checkpoints, load_model
from hear_axlstm.audio.io import load_audio
from hear_axlstm.audio.skipped import Report
from hear_axlstm.audio.sources import FolderSource, open_source
from hear_axlstm.config import ModelConfig
from hear_axlstm.data.shards import Shard
from hear_axlstm.embed import files, writers
from hear_axlstm.embed.files import embed_files
from hear_axlstm.embed.output import Output, OutputError
from hear_axlstm.models.pretraining import MaskedPatchModel
from hear_axlstm.ops import precision
from hear_axlstm.ops.precision import Precision
from hear_axlstm.training.distributed import init_distributed
from tests.helpers.runs import run_ranks

SIZE = 80  # of the small model's embeddings
FORMATS = {"a.wav": (16_000, 1), "b.flac": (44_100, 2), "c.ogg": (22_050, 1), "d.mp3": (48_000, 2)}
BROKEN = ("cut.wav", "empty.flac", "junk.wav", "loud.wav", "mute.wav", "tiny.wav")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of small weights."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    whole = MaskedPatchModel(ModelConfig(dim=16, depth=1))
    checkpoints.save(path, whole, {}, next(whole.parameters()).dtype)
    return str(path)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four formats, rates and channels, a subfolder, and six files that give nothing."""
    folder = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(0)
    for name, (rate, channels) in FORMATS.items():
        soundfile.write(folder / name, rng.normal(0, 0.1, (2 * rate, channels)), rate)
    (folder / "sub").mkdir()
    soundfile.write(folder / "sub" / "short.wav", rng.normal(0, 0.1, 500), 16_000)
    soundfile.write(folder / "tiny.wav", rng.normal(0, 0.1, 5), 16_000)
    soundfile.write(folder / "mute.wav", np.zeros(16_000), 16_000)
    (folder / "cut.wav").write_bytes((folder / "a.wav").read_bytes()[:9_000])
    (folder / "empty.flac").touch()
    (folder / "junk.wav").write_bytes(b"RIFFwhat")
    soundfile.write(folder / "loud.wav", np.full(800, 1e20), 16_000, subtype="FLOAT")
    (folder / "readme.txt").write_text("no audio", "utf-8")
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    write_noise(folder, 24)
    return folder


def write_noise(folder: Path, clips: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(clips):
        length = int(rng.integers(800, 12_000))
        soundfile.write(folder / f"{number:04d}.wav", rng.normal(0, 0.1, length), 16_000)


def small_shards(monkeypatch: pytest.MonkeyPatch, clips: int = 4) -> None:
    monkeypatch.setattr(files, "CLIPS_PER_SHARD", clips)


def embed(
    inputs: list[str],
    out: Path,
    model: str,
    kind: files.Stored = "scene",
    precision: Precision = "float32",
    **options: float,
) -> Report:
    report = embed_files(inputs, out, load_model(model, precision=precision), kind, **options)  # type: ignore[arg-type]
    assert report is not None
    return report


def expected(model: str, paths: list[Path]) -> np.ndarray:
    return np.stack([load_model(model).embed(load_audio(path)) for path in paths])


def command(*arguments: object, torchrun: bool = False) -> list[str]:
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "--"]
    ranks = start if torchrun else ["-m"]
    return [sys.executable, *ranks, "hear_axlstm", "embed", *map(str, arguments)]


def test_a_mixed_folder_loses_only_what_is_broken(model: str, mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "scenes.npy"
    result = subprocess.run(
        command(mixed, "--out", out, "--model", model), capture_output=True, text=True
    )
    assert result.returncode == 3 and "WARNING: 55%, 6 of 11 left out" in result.stdout, (
        result.stderr
    )
    assert "x real time" in result.stderr and "\r" not in result.stderr
    ids = Path(f"{out}.ids.txt").read_text(encoding="utf-8").splitlines()
    assert ids == [*FORMATS, "sub/short.wav"]
    wanted = expected(model, [mixed / name for name in ids])
    np.testing.assert_allclose(np.load(out), wanted, rtol=0, atol=1e-5)
    with open(f"{out}.report.csv", encoding="utf-8", newline="") as file:
        reasons = {row["id"]: row["reason"] for row in csv.DictReader(file)}
    assert tuple(reasons) == BROKEN and "truncated" in reasons["cut.wav"]


def test_parquet_and_folder_hold_the_same(model: str, mixed: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "list.csv").write_text(
        f"path,start,end\n{mixed / 'a.wav'},0.5,1.25\n{mixed / 'd.mp3'},,\n", "utf-8"
    )
    for name in ("o.parquet", "o"):
        report = embed([str(tmp_path / "list.csv")], tmp_path / name, model, "both")
        assert report.clips == 2 and not report.skipped
        assert not Output(report.output, ("scene",)).parts.exists()
    table = parquet.read_table(tmp_path / "o.parquet").to_pydict()
    assert [i.split("@")[-1] for i in table["id"]] == ["0.5-1.25", str(mixed / "d.mp3")]
    span = load_audio(mixed / "a.wav", start=0.5, end=1.25)
    embedder = load_model(model)
    steps, times = embedder.embed_timestamps(span)
    np.testing.assert_allclose(table["scene"][0], embedder.embed_scenes(span), rtol=0, atol=1e-5)
    np.testing.assert_allclose(table["steps"][0], steps, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(np.array(table["times_ms"][0], "f4"), times)

    with open(tmp_path / "o" / "index.csv", encoding="utf-8", newline="") as file:
        index = list(csv.DictReader(file))
    for number, row in enumerate(index):
        for field in ("scene", "steps", "times_ms"):
            own = np.load(tmp_path / "o" / field / row["file"])
            np.testing.assert_array_equal(own, np.array(table[field][number], "f4"))


def test_many_inputs_of_every_sort(
    model: str, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("webdataset")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("a.wav", "junk.wav"):
            tar.add(mixed / name, name)
    listed = io.BytesIO(f"{mixed / 'c.ogg'}\n\n".encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(listed, encoding="utf-8"))
    asked = [str(tmp_path / "x.tar"), f"{mixed}/**/[bs]*.[fw]*", "-", str(mixed / "sub")]
    report = embed(asked, tmp_path / "o.npy", model)
    ids = (tmp_path / "o.npy.ids.txt").read_text("utf-8").splitlines()
    wanted = [f"{tmp_path}/x.tar/x.tar/a.wav"]
    wanted += [str(mixed / n) for n in ("b.flac", "sub/short.wav", "c.ogg", "sub/short.wav")]
    assert ids == wanted and sum(report.skipped.values()) == 1


def test_ids_that_leave_the_folder_or_repeat_stay_inside(
    model: str, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mixed / "sub")
    embed(["../a.wav", "../a.wav", str(mixed / "a.wav")], tmp_path / "o", model)
    files = sorted(p.relative_to(tmp_path / "o") for p in (tmp_path / "o").rglob("*.npy"))
    inside = [Path("scene/%2E%2E/a.wav.npy"), Path("scene/%2E%2E/a.wav~2.npy")]
    assert files == [*inside, Path("scene") / f"{str(mixed)[1:]}/a.wav.npy"]


def test_nothing_is_computed_again_until_a_file_changes(
    model: str, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio, out, computed = tmp_path / "audio", tmp_path / "o.npy", []
    audio.mkdir()
    write_noise(audio, 12)
    (audio / "0005.wav").write_bytes(b"junk")
    run = files._embed_batch
    monkeypatch.setattr(
        files, "_embed_batch", lambda batch, **rest: computed.extend(batch) or run(batch, **rest)
    )
    report = embed([str(audio)], out, model)
    assert report.skipped and len(computed) == 11
    assert embed([str(audio)], out, model) == report and len(computed) == 11
    soundfile.write(audio / "0005.wav", np.linspace(-0.5, 0.5, 900), 16_000)
    report = embed([str(audio)], out, model)
    assert not report.skipped and len(computed) == 11 + 12
    wanted = expected(model, sorted(audio.iterdir()))
    np.testing.assert_allclose(np.load(out), wanted, rtol=0, atol=1e-5)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"audio", "o.npy", "o.npy.ids.txt", "o.npy.embed.json"}


def test_files_that_a_pattern_matches_later_are_added(model: str, tmp_path: Path) -> None:
    pattern, out = str(tmp_path / "*" / "*.wav"), tmp_path / "o.npy"
    for clips, name in enumerate("ba", start=1):
        (tmp_path / name).mkdir()
        write_noise(tmp_path / name, 1)
        assert embed([pattern], out, model).clips == clips


def test_another_request_for_the_same_output_is_refused(
    model: str, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio, out = [str(mixed)], tmp_path / "o"
    other, whole = tmp_path / "other.safetensors", MaskedPatchModel(ModelConfig(dim=16, depth=1))
    checkpoints.save(other, whole, {}, next(whole.parameters()).dtype)
    embed(audio, out, model)
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    assert {path.name for path in before} >= {"embed.json", "report.csv"}
    assert not (out / "parts").exists()
    for changed in (
        {"kind": "both"},
        {"precision": "bfloat16"},
        {"model": str(other)},
        {"inputs": [str(mixed / "sub")]},
    ):
        options = {"inputs": audio, "model": model, "kind": "scene", **changed}
        word = {"model": "weights", "inputs": "source"}.get(
            next(iter(changed)), next(iter(changed))
        )
        with pytest.raises(OutputError, match=rf"o was made with other settings: {word}.*Choose"):
            embed(options.pop("inputs"), out, **options)
    assert before == {path: path.read_bytes() for path in out.rglob("*.*")}
    (tmp_path / "stop").mkdir()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "_embed_batch", interrupt)
        embed(audio, tmp_path / "stop", model)
    with pytest.raises(
        OutputError, match=r"stop/parts was made with other settings: kind \('scene'"
    ):
        embed(audio, tmp_path / "stop", model, "timestamp")


def test_a_run_without_usable_audio_leaves_only_its_report(model: str, tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.wav").write_bytes(b"junk")
    for name, report in (("o", "o/report.csv"), ("o.npy", "o.npy.report.csv")):
        for _ in "12":
            with pytest.raises(OutputError, match=r"no clip could be embedded.*a\.wav: not dec"):
                embed([str(tmp_path / "audio")], tmp_path / name, model)
        left = [path for path in tmp_path.rglob("*") if path.name.startswith(name[:1])]
        assert (tmp_path / report).exists() and not any("parts" in path.name for path in left)


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_run_goes_on(
    model: str, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch)
    out, run, calls = tmp_path / "o.npy", files._embed_batch, []

    def stops(batch: list, **rest: Any) -> object:
        calls.append(len(batch))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(batch, **rest)

    monkeypatch.setattr(files, "_embed_batch", stops)
    with pytest.raises(KeyboardInterrupt):
        embed([str(many)], out, model)
    assert not out.exists() and len(list(tmp_path.glob("*.parts/shard-*.json"))) == 2
    embed([str(many)], out, model)
    assert sum(calls) == 4 + 24
    wanted = expected(model, sorted(many.iterdir()))
    np.testing.assert_allclose(np.load(out), wanted, rtol=0, atol=1e-5)


def test_an_interrupted_replacement_leaves_no_orphans(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio, out = tmp_path / "audio", tmp_path / "out"
    audio.mkdir()
    write_noise(audio, 1)
    embed([str(audio)], out, model)
    write_noise(audio, 3)
    replace_file = os.replace

    def stops_at_the_index(source: Path, target: Path) -> None:
        if Path(source).name == "index.csv":  # from beside, after all other files
            raise KeyboardInterrupt
        replace_file(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(writers.os, "replace", stops_at_the_index)
        embed([str(audio)], out, model)
    last = sorted(audio.iterdir())[-1]
    last.unlink()
    assert embed([str(audio)], out, model).clips == 2
    assert len(list(out.rglob("*.npy"))) == 2


def test_what_is_not_ours_is_never_replaced(model: str, mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "o.npy").write_text("precious", "utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes").write_text("precious", "utf-8")
    (tmp_path / "file").write_text("precious", "utf-8")
    for name in ("o.npy", "folder", "file"):
        with pytest.raises(OutputError, match="was not made by axlstm embed"):
            embed([str(mixed)], tmp_path / name, model)
    assert (tmp_path / "o.npy").read_text("utf-8") == "precious"


def test_mistakes_get_one_clear_error(model: str, mixed: Path, tmp_path: Path) -> None:
    audio, out = [str(mixed)], tmp_path / "o.npy"
    for inputs, path, options, remedy in (
        ([], out, {}, "pass files"),
        ([f"{tmp_path}/no*.wav"], out, {}, "check the pattern"),
        ([f"{tmp_path}/no.wav"], out, {}, "no.wav does not exist: check the path"),
        ([str(tmp_path)], out, {}, "contains no audio files"),
        (audio, tmp_path / "o.wav", {}, "choose .npy, .parquet, or a folder's name without a dot"),
        (audio, out, {"kind": "both"}, "can hold only scene: choose .parquet or a folder"),
        ([str(mixed / "junk.wav")], out, {}, "no clip could be embedded"),
    ):
        with pytest.raises(ValueError, match=remedy):
            embed(inputs, path, model, **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_killed_process_goes_on(model: str, many: Path, tmp_path: Path) -> None:
    audio, out = tmp_path / "audio", tmp_path / "o"
    audio.mkdir()
    write_noise(audio, 160)
    arguments = command(audio, "--out", out, "--model", model, "--kind", "both")
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(out.glob("parts/shard-*.json")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (out / "embed.json").exists()
    subprocess.run(arguments, check=True)
    paths = sorted(audio.iterdir())
    found = [np.load(out / "scene" / f"{path.name}.npy") for path in paths]
    np.testing.assert_allclose(found, expected(model, paths), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_two_processes_share_the_work(model: str, mixed: Path, many: Path, tmp_path: Path) -> None:
    lists = tmp_path / "list.csv"
    rows = [*sorted(many.iterdir()), *(mixed / name for name in (*FORMATS, *BROKEN))]
    lists.write_text("path\n" + "".join(f"{path}\n" for path in 20 * rows), "utf-8")
    alone, together = tmp_path / "alone.npy", tmp_path / "together.npy"
    embed([str(lists)], alone, model)
    arguments = command(lists, "--out", together, "--model", model, torchrun=True)
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(arguments, check=True, env=environ)
    np.testing.assert_allclose(np.load(together), np.load(alone), rtol=0, atol=1e-5)
    reports = [Path(f"{out}.report.csv").read_text(encoding="utf-8") for out in (alone, together)]
    assert reports[0] == reports[1] and reports[0].count("\n") == 1 + 20 * len(BROKEN)
    refused = command(tmp_path, "--out", tmp_path / "o.npy", torchrun=True)
    result = subprocess.run(refused, capture_output=True, text=True, env=environ)
    assert result.returncode and result.stderr.count("axlstm: error") == 1, result.stderr


MEASURED = """
import resource, sys
from pathlib import Path
from hear_axlstm import load_model
from hear_axlstm.embed.files import embed_files
embed_files([sys.argv[1]], Path(sys.argv[2]), load_model(sys.argv[3]), "both")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_clips(model: str, tmp_path: Path) -> None:
    """Six times the clips, 60 MB more of embeddings: the same peak of memory."""
    peaks = {}
    soundfile.write(tmp_path / "clip.wav", np.random.default_rng(0).normal(0, 0.1, 80_000), 16_000)
    for clips in (256, 1_536):
        rows = "clip.wav\n" * clips
        (tmp_path / f"{clips}.csv").write_text(f"path\n{rows}", "utf-8")
        script = [sys.executable, "-c", MEASURED, str(tmp_path / f"{clips}.csv")]
        script += [str(tmp_path / f"out-{clips}"), model]
        peaks[clips] = int(subprocess.run(script, check=True, capture_output=True).stdout)
    steps = (tmp_path / "out-1536" / "steps").rglob("*.npy")
    assert sum(path.stat().st_size for path in steps) > 60e6
    assert peaks[1_536] < peaks[256] + 30_000, peaks  # kB


def test_odd_names_cost_nothing(model: str, tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    write_noise_to = [b"caf\xe9.wav", b"x" * 251 + b".wav", b"a.wav", b"a.wav.npy/b.wav"]
    (audio / "a.wav.npy").mkdir(parents=True)
    noise = np.random.default_rng(0).normal(0, 0.1, 800)
    for name in write_noise_to:
        soundfile.write(os.fsencode(audio) + b"/" + name, noise, 16_000, format="WAV")
    folder = embed([str(audio)], tmp_path / "o", model)
    assert folder.clips == 4 and not folder.skipped
    with open(tmp_path / "o" / "index.csv", "rb") as file:
        lines = file.read().splitlines()[1:]
    assert len(lines) == 4 and any(line.startswith(b"caf\xe9.wav,") for line in lines)
    for line in lines:
        assert np.load(os.fsencode(tmp_path / "o" / "scene") + b"/" + line.split(b",")[1]).size
    embed([str(audio)], tmp_path / "o.npy", model)
    assert b"caf\xe9.wav\n" in (tmp_path / "o.npy.ids.txt").read_bytes()


def test_an_output_that_was_cut_off_is_made_again(model: str, many: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.npy"
    embed([str(many)], out, model)
    whole = out.read_bytes()
    os.truncate(out, len(whole) - 100)
    embed([str(many)], out, model)
    assert out.read_bytes() == whole


def test_ids_with_a_drive_stay_inside_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "WINDOWS", True)
    assert writers._file_name(r"C:\audio\..\a.wav", tmp_path) == "C/audio/%2E%2E/a.wav.npy"


@pytest.mark.parametrize("is_faster", [True, False])
def test_auto_precision_is_recorded_as_what_it_was(
    is_faster: bool, model: str, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_has_fast_cpu", lambda: is_faster)
    embedder = load_model(model, precision="auto")
    embed_files([mixed / "a.wav"], tmp_path / "a.npy", embedder)
    monkeypatch.setattr(precision, "_has_fast_cpu", lambda: not is_faster)
    with pytest.raises(OutputError, match="precision"):
        embed_files([mixed / "a.wav"], tmp_path / "a.npy", load_model(model, precision="auto"))


def embed_in_a_rank(audio: Path, out: Path, models: list[str], differs: str) -> None:
    """Embed with something else on rank 1, and leave a note of the error."""
    with init_distributed("cpu") as context:
        chosen: Precision = "float32"
        if context.rank and differs == "files":
            files.open_source = with_one_file_less
        if context.rank and differs == "precision":
            chosen = "bfloat16"
        embedder = load_model(models[context.rank], precision=chosen)
        with pytest.raises(ValueError, match="not the same on every rank") as caught:
            embed_files([audio], out, embedder, context=context)
    out.with_name(f"note-{context.rank}").write_text(str(caught.value), "utf-8")


def with_one_file_less(*arguments: Any) -> FolderSource:
    source = open_source(*arguments)
    assert isinstance(source, FolderSource)
    del source._entries[3]
    return source


@pytest.mark.parametrize(
    ("differs", "remedy"),
    [
        ("files", "run the same command again"),
        ("weights", "give all ranks the same file"),
        ("precision", "choose one with --precision"),
    ],
)
def test_ranks_that_differ_are_refused_on_every_rank(
    differs: str, remedy: str, model: str, many: Path, tmp_path: Path
) -> None:
    other, whole = tmp_path / "other.safetensors", MaskedPatchModel(ModelConfig(dim=16, depth=1))
    checkpoints.save(other, whole, {}, next(whole.parameters()).dtype)
    models = [model, str(other) if differs == "weights" else model]
    run_ranks(2, embed_in_a_rank, many, tmp_path / "o.npy", models, differs)
    notes = [(tmp_path / f"note-{rank}").read_text("utf-8") for rank in range(2)]
    assert all(remedy in note for note in notes)
    assert not list(tmp_path.glob("o.npy*")), "nothing is written"


def test_shards_of_other_files_are_not_joined(
    model: str, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch)
    out, write = tmp_path / "o.npy", Shard.write

    def written_by_another(shard: Shard, found: Any) -> None:
        write(replace(shard, fingerprint="other") if shard.number == 2 else shard, found)

    with monkeypatch.context() as patch, pytest.raises(OutputError, match=r"shard-00002.*again"):
        patch.setattr(Shard, "write", written_by_another)
        embed([str(many)], out, model)
    assert not out.exists()
    assert embed([str(many)], out, model).clips == 24
