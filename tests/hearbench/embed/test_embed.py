"""One embedding for both engines: the files are those that heareval's own runner writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests.helpers.hear_task import SAMPLE_RATE, write_task

pytest.importorskip("heareval", reason="heareval is not installed: make setup")

from hearbench.embed import EmbeddingError, embed, embedded, embedded_seconds, files
from hearbench.embed import loop as embed_loop
from hearbench.embed.loop import equal_batches
from hearbench.embed.model import check_output
from hearbench.systems.fingerprint import fingerprint
from hearbench.systems.specs import System, SystemSpecError
from hearbench.tasks.audio import Clip, find_clips, with_audio
from hearbench.tasks.description import TaskError
from hearbench.tasks.folders import Task, read_task

NAIVE = System("naive", "hearbench.systems.naive")
FAILING = """
import torch
from hearbench.systems import naive
from hearbench.systems.naive import load_model
LARGEST, CALLS = {largest}, []
def get_scene_embeddings(audio, model):
    CALLS.append(len(audio))
    if len(audio) > LARGEST:
        raise torch.OutOfMemoryError
    return naive.get_scene_embeddings(audio, model) {then}
def get_timestamp_embeddings(audio, model):
    CALLS.append(len(audio))
    return naive.get_timestamp_embeddings(audio, model)
"""


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def write_events(folder: Path) -> Path:
    """Clips of two lengths with sound events, some of which overlap."""
    path = write_task(folder, embedding_type="event", prediction_type="multilabel")
    for split in ("train", "valid", "test"):
        labels = {}
        for number, clip in enumerate(json.loads((path / f"{split}.json").read_text("utf-8"))):
            file = path / str(SAMPLE_RATE) / split / clip
            audio, _ = soundfile.read(file)
            soundfile.write(file, np.tile(audio, 2 + 2 * (number % 2)), SAMPLE_RATE)
            labels[clip] = [
                {"label": "low", "start": 0.0, "end": 100.0 + number},
                {"label": "high", "start": 50.0, "end": 300.0},
            ]
        (path / f"{split}.json").write_text(json.dumps(labels), "utf-8")
    settings = json.loads((path / "task_metadata.json").read_text("utf-8"))
    (path / "task_metadata.json").write_text(
        json.dumps(settings | {"sample_duration": None}), "utf-8"
    )
    return path


def heareval_s(task: Task, folder: Path) -> Path:
    """The folder that heareval's own runner leaves."""
    from heareval.embeddings.runner import runner

    runner.callback(
        module=NAIVE.module,
        tasks_dir=str(task.path.parent),
        task=task.path.name,
        embeddings_dir=str(folder),
        model_options="{}",
    )
    done = embedded(task, folder)
    assert done is not None
    return done


@pytest.mark.parametrize("kind", ["split", "folded", "events"])
def test_files_are_those_of_heareval_s_runner(tmp_path: Path, kind: str) -> None:
    write = {"split": write_task, "folded": lambda p: write_task(p, folds=3)}
    task = read_task(write.get(kind, write_events)(tmp_path / "tasks" / "tones"))
    theirs = heareval_s(task, tmp_path / "theirs")
    embed(NAIVE, task, tmp_path / "ours")
    ours = embedded(task, tmp_path / "ours")
    assert ours is not None
    names = {file.name for file in theirs.iterdir() if file.is_file()}
    assert {file.name for file in ours.iterdir()} == names
    profile = "profile.embeddings.json"
    for name in names - {profile}:
        mine, yours = ours / name, theirs / name
        if name.endswith(".embeddings.npy"):
            numbers = [np.fromfile(file, dtype=np.float32) for file in (mine, yours)]
            np.testing.assert_allclose(*numbers, rtol=1e-5, atol=1e-5)
        elif name.endswith(".filename-timestamps.json"):  # with the folder's own path
            assert mine.read_text("utf-8") == yours.read_text("utf-8").replace(
                str(theirs), str(ours)
            )
        else:
            assert mine.read_bytes() == yours.read_bytes(), name
    keys = [json.loads((folder / profile).read_text("utf-8")).keys() for folder in (ours, theirs)]
    assert keys[0] == keys[1]


def test_batches_hold_clips_of_one_length(tmp_path: Path) -> None:
    task = read_task(write_events(tmp_path / "tones"))
    clips = find_clips(task, SAMPLE_RATE)
    batches = equal_batches(clips, most_samples=40_000)
    assert sorted((clip for batch in batches for clip in batch), key=str) == sorted(clips, key=str)
    assert [len({clip.samples for clip in batch}) for batch in batches] == [1] * len(batches)
    assert [len(batch) for batch in batches] == [2] * 9 + [5, 5, 5, 3]
    assert {len(batch) for batch in equal_batches(clips, most_samples=10)} == {1}


@pytest.mark.parametrize("write", [write_task, write_events], ids=["scenes", "events"])
def test_a_killed_embedding_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Path]
) -> None:
    """Clips that are on disk are not embedded again; the result is that of one go."""
    task = read_task(write(tmp_path / "tones"))
    slow = module(tmp_path, monkeypatch, f"slow_{write.__name__}", largest=99, then="")
    import importlib

    calls = importlib.import_module(slow.module).CALLS
    embed(slow, task, tmp_path / "whole")
    total = sum(calls)
    calls.clear()
    put, count = files.EmbeddingFiles.put, 0

    def interrupted(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        put(*arguments)

    monkeypatch.setattr(embed_loop, "SAMPLES_PER_BATCH", 20_000)
    monkeypatch.setattr(files.EmbeddingFiles, "put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed(slow, task, tmp_path / "cut")
    monkeypatch.setattr(files.EmbeddingFiles, "put", put)
    assert embedded(task, tmp_path / "cut") is None
    assert embedded_seconds(tmp_path / "cut") > 0
    (journal,) = tmp_path.glob(f"cut/*/tones/{files.JOURNAL}")
    with journal.open("a", encoding="utf-8") as file:
        file.write('["train", "tra')  # the power failed here
    kept = len(journal.read_text("utf-8").splitlines()) - 2
    assert kept > 0
    calls.clear()
    embed(slow, task, tmp_path / "cut")
    assert sum(calls) == total - kept
    for file in (tmp_path / "whole" / slow.module / "tones").iterdir():
        mine = tmp_path / "cut" / slow.module / "tones" / file.name
        if file.name.endswith(".embeddings.npy"):
            np.testing.assert_allclose(np.fromfile(mine, "f4"), np.fromfile(file, "f4"), rtol=1e-5)
        elif "profile" not in file.name and "filename-timestamps" not in file.name:
            assert mine.read_bytes() == file.read_bytes(), file.name
    assert not list((tmp_path / "cut" / slow.module / "tones").glob(".*.rows"))


MS = 20.0 * np.arange(100, dtype=np.float32)
TIMES = {
    "seconds": (MS / 1000, "cover too little of it"),
    "frames": (np.arange(100, dtype=np.float32), "cover too little of it"),
    "samples": (MS * 16, "are outside it"),
    "descending": (MS[::-1], "do not ascend"),
    "constant": (np.full(100, 5.0, np.float32), "do not ascend"),
    "NaN": (np.where(MS == 100, np.nan, MS), "contain NaN or infinity"),
    "past the end": (MS + 500, "are outside it"),
    "before the start": (MS - 500, "are outside it"),
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_are_milliseconds_of_the_clip(kind: str) -> None:
    clip = Clip("train", "x.wav", Path("x.wav"), 32_000)
    rows = np.zeros((1, 100, 8), np.float32)
    times, message = TIMES[kind]
    with pytest.raises(EmbeddingError, match=rf"module: .*x.wav, which lasts 2000 ms, {message}"):
        check_output("module", 16_000, [clip], rows, times[None])


def test_padded_and_single_times_pass() -> None:
    clip = Clip("train", "x.wav", Path("x.wav"), 32_000)
    for times in (MS, MS + 10, MS - 10, np.append(MS, 2000), np.array([1000.0]), MS[::50] + 500):
        rows = np.zeros((1, len(times), 8), np.float32)
        check_output("module", 16_000, [clip], rows, times[None])


@pytest.mark.parametrize("split", ["valid", "test", "fold00"])
def test_clips_that_are_scored_need_two_time_steps(split: str) -> None:
    clip = Clip(split, "x.wav", Path("x.wav"), 32_000)
    rows, times = np.zeros((1, 1, 8), np.float32), np.array([[1000.0]])
    with pytest.raises(EmbeddingError, match=r"a single time step for x.wav, .* two or more"):
        check_output("module", 16_000, [clip], rows, times)


def module(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, **code: object) -> System:
    (folder / f"{name}.py").write_text(FAILING.format(**code), "utf-8")
    monkeypatch.syspath_prepend(folder)
    return System(name, name)


def test_a_batch_too_large_for_memory_is_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = read_task(write_task(tmp_path / "tones"))
    small = module(tmp_path, monkeypatch, "small_memory", largest=5, then="")
    embed(small, task, tmp_path / "halved")
    embed(System("naive", "hearbench.systems.naive"), task, tmp_path / "whole")
    import small_memory  # type: ignore[import-not-found]

    assert small_memory.CALLS[:4] == [36, 18, 9, 4]
    for split in task.splits:
        name = f"tones/{split}.embeddings.npy"
        halved = np.fromfile(tmp_path / "halved" / "small_memory" / name, np.float32)
        whole = np.fromfile(tmp_path / "whole" / "hearbench.systems.naive" / name, np.float32)
        np.testing.assert_allclose(halved, whole, rtol=1e-5)
    none = module(tmp_path, monkeypatch, "no_memory", largest=0, then="")
    with pytest.raises(EmbeddingError, match=r"train-0.wav is too long to fit in memory"):
        embed(none, task, tmp_path / "none")


def test_errors_name_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = read_task(write_task(tmp_path / "tones"))
    bad = module(tmp_path, monkeypatch, "not_finite", largest=99, then="/ 0.0")
    with pytest.raises(EmbeddingError, match=r"not_finite returns NaN, infinity .* for .*\.wav"):
        embed(bad, task, tmp_path / "bad")
    huge = module(tmp_path, monkeypatch, "huge", largest=99, then=".double() * 1e300")
    with pytest.raises(EmbeddingError, match=r"huge returns .* values beyond float32 for .*\.wav"):
        embed(huge, task, tmp_path / "huge")
    twice = module(tmp_path, monkeypatch, "twice", largest=99, then=".repeat(2, 1)")
    with pytest.raises(
        EmbeddingError, match=r"twice returns \[72, 4096\] for 36 clips, not \[36, D"
    ):
        embed(twice, task, tmp_path / "twice")
    fails = module(tmp_path, monkeypatch, "fails", largest=99, then=".nonsense")
    with pytest.raises(EmbeddingError, match=r"fails on .*-0.wav and 35 more .* 'nonsense'"):
        embed(fails, task, tmp_path / "fails")
    clip = task.path / str(SAMPLE_RATE) / "valid" / "valid-1.wav"
    soundfile.write(clip, np.zeros(100), SAMPLE_RATE)
    varies = module(tmp_path, monkeypatch, "varies", largest=99, then="[:, :audio.shape[1]]")
    for _ in range(2):  # also when it resumes
        with pytest.raises(
            EmbeddingError, match=r"valid-1.wav has an embedding of size 100, .* size 4000:"
        ):
            embed(varies, task, tmp_path / "varies")
    soundfile.write(clip, np.zeros((100, 2)), SAMPLE_RATE)
    with pytest.raises(TaskError, match=r"valid-1.wav: 16000 Hz with 2 channel.* needs .* mono"):
        embed(NAIVE, task, tmp_path / "stereo")
    clip.write_bytes(b"noise")
    with pytest.raises(TaskError, match=r"valid-1.wav: not decodable"):
        embed(NAIVE, task, tmp_path / "noise")


SCALED = """
from pathlib import Path
import torch
from hearbench.systems import naive
def load_model(folder):
    model = naive.load_model()
    newest = max(Path(folder).glob("*.txt"))
    model.projection *= float(newest.read_text("utf-8"))
    return model
def get_scene_embeddings(audio, model):
    import changing_system.needed_later
    return naive.get_scene_embeddings(audio, model)
get_timestamp_embeddings = naive.get_timestamp_embeddings
"""


def test_weights_or_code_that_change_before_they_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imports of earlier jobs in the same process are no change."""
    package, weights = tmp_path / "changing_system", tmp_path / "weights"
    package.mkdir()
    weights.mkdir()
    (package / "__init__.py").write_text(SCALED, "utf-8")
    (package / "needed_later.py").write_text("SIZE = 1", "utf-8")
    (weights / "step-1.txt").write_text("1", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    tasks = [read_task(write_task(tmp_path / name)) for name in ("one", "two", "three")]
    system = System("mine", package.name, str(weights))
    before = fingerprint(system)
    for task in tasks[:2]:
        embed(system, task, tmp_path / "out" / task.name, fingerprint=before)
    assert fingerprint(system) != before
    (weights / "step-2.txt").write_text("2", "utf-8")
    message = "'mine': its weights or code have changed .* again, or .* the folder .*weights$"
    with pytest.raises(SystemSpecError, match=message):
        embed(system, tasks[2], tmp_path / "out" / "three", fingerprint=before)
    assert embedded(tasks[2], tmp_path / "out" / "three") is None
    (weights / "step-2.txt").unlink()
    (package / "__init__.py").write_text(SCALED + "\n", "utf-8")
    with pytest.raises(SystemSpecError, match="its weights or code have changed"):
        embed(system, tasks[2], tmp_path / "out" / "three", fingerprint=before)
    (package / "__init__.py").unlink()
    with pytest.raises(SystemSpecError, match="its weights or code have changed"):
        embed(system, tasks[2], tmp_path / "out" / "three", fingerprint=before)


@pytest.mark.parametrize("name", [f"{SAMPLE_RATE}/valid/valid-1.wav", "train.json"])
def test_audio_or_labels_that_change_before_they_are_used(tmp_path: Path, name: str) -> None:
    task = with_audio(read_task(write_task(tmp_path / "tones")), [SAMPLE_RATE])
    content = (task.path / name).read_bytes()
    (task.path / name).write_bytes(content[:-2] + content[:-3:-1])
    with pytest.raises(TaskError, match=f"{name} has changed .*: run the same command again"):
        embed(NAIVE, task, tmp_path / "out")
    assert embedded(task, tmp_path / "out") is None
    (task.path / name).write_bytes(content)
    embed(NAIVE, task, tmp_path / "out")
    assert embedded(task, tmp_path / "out") is not None
