"""One embedding for both engines: the files are those that heareval's own runner writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.helpers.hear_task import SAMPLE_RATE, write_task

pytest.importorskip("heareval", reason="heareval is not installed: make setup")

from hearbench import embed as embedding
from hearbench.clips import equal_batches, find_clips
from hearbench.embed import EmbeddingError, embed, embedded_seconds
from hearbench.probes import heareval_adapter
from hearbench.systems.registry import System
from hearbench.tasks.description import TaskError
from hearbench.tasks.folders import Task, read_task

NAIVE = System("naive", "hearbench.systems.naive", options={"seed": 1})
FAILING = """
import torch
from hearbench.systems import naive
from hearbench.systems.naive import get_timestamp_embeddings, load_model
LARGEST, CALLS = {largest}, []
def get_scene_embeddings(audio, model):
    CALLS.append(len(audio))
    if len(audio) > LARGEST:
        raise torch.OutOfMemoryError
    return naive.get_scene_embeddings(audio, model) {then}
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
        for number, clip in enumerate(json.loads((path / f"{split}.json").read_text())):
            file = path / str(SAMPLE_RATE) / split / clip
            audio, _ = soundfile.read(file)
            soundfile.write(file, np.tile(audio, 2 + 2 * (number % 2)), SAMPLE_RATE)
            labels[clip] = [
                {"label": "low", "start": 0.0, "end": 100.0 + number},
                {"label": "high", "start": 50.0, "end": 300.0},
            ]
        (path / f"{split}.json").write_text(json.dumps(labels))
    settings = json.loads((path / "task_metadata.json").read_text())
    (path / "task_metadata.json").write_text(json.dumps(settings | {"sample_duration": None}))
    return path


def heareval_s(task: Task, folder: Path) -> Path:
    """The folder that heareval's own runner leaves."""
    from heareval.embeddings.runner import runner

    runner.callback(
        module=NAIVE.module,
        tasks_dir=str(task.path.parent),
        task=task.path.name,
        embeddings_dir=str(folder),
        model_options=json.dumps(NAIVE.options),
    )
    done = heareval_adapter.embedded(task, folder)
    assert done is not None
    return done


@pytest.mark.parametrize("kind", ["split", "folded", "events"])
def test_files_are_those_of_heareval_s_runner(tmp_path: Path, kind: str) -> None:
    write = {"split": write_task, "folded": lambda p: write_task(p, folds=3)}
    task = read_task(write.get(kind, write_events)(tmp_path / "tasks" / "tones"))
    theirs = heareval_s(task, tmp_path / "theirs")
    embed(NAIVE, task, tmp_path / "ours")
    ours = heareval_adapter.embedded(task, tmp_path / "ours")
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
            assert mine.read_text() == yours.read_text().replace(str(theirs), str(ours))
        else:
            assert mine.read_bytes() == yours.read_bytes(), name
    keys = [json.loads((folder / profile).read_text()).keys() for folder in (ours, theirs)]
    assert keys[0] == keys[1]


def test_batches_hold_clips_of_one_length(tmp_path: Path) -> None:
    task = read_task(write_events(tmp_path / "tones"))
    clips = find_clips(task, SAMPLE_RATE)
    batches = equal_batches(clips, most_samples=40_000)
    assert sorted((clip for batch in batches for clip in batch), key=str) == sorted(clips, key=str)
    assert [len({clip.samples for clip in batch}) for batch in batches] == [1] * len(batches)
    assert [len(batch) for batch in batches] == [2] * 9 + [5, 5, 5, 3]
    assert {len(batch) for batch in equal_batches(clips, most_samples=10)} == {1}


def test_a_killed_embedding_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips that are complete stay; half-written ones are computed again."""
    task = read_task(write_task(tmp_path / "tones"))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    embed(NAIVE, task, whole)
    monkeypatch.setattr(embedding._Work, "join_splits", stop)
    with pytest.raises(KeyboardInterrupt):
        embed(NAIVE, task, cut)
    monkeypatch.undo()
    assert heareval_adapter.embedded(task, cut) is None
    clips = sorted(cut.glob("*/tones/*/*.embedding.npy"))
    assert len(clips) == 36
    assert embedded_seconds(cut) == pytest.approx(36 * 0.25)
    clips[0].write_bytes(clips[0].read_bytes()[:100])
    Path(str(clips[1]).replace("embedding.npy", "target-labels.json")).write_text("")
    times = [clip.stat().st_mtime_ns for clip in clips]
    monkeypatch.setattr(embedding.shutil, "rmtree", lambda _path: None)  # keeps the clips
    embed(NAIVE, task, cut)
    assert [clip.stat().st_mtime_ns == time for clip, time in zip(clips, times, strict=True)] == [
        *(False, False),
        *([True] * 34),
    ]
    for file in whole.glob("*/tones/*.embeddings.npy"):
        assert np.allclose(
            *(np.fromfile(f, np.float32) for f in (file, cut / file.relative_to(whole)))
        )


def stop(*_arguments: object) -> None:
    raise KeyboardInterrupt


def module(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, **code: object) -> System:
    (folder / f"{name}.py").write_text(FAILING.format(**code))
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
    with pytest.raises(EmbeddingError, match=r"train-0.wav is too long for the memory"):
        embed(none, task, tmp_path / "none")


def test_errors_name_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = read_task(write_task(tmp_path / "tones"))
    bad = module(tmp_path, monkeypatch, "not_finite", largest=99, then="/ 0.0")
    with pytest.raises(EmbeddingError, match=r"not_finite gives NaN or infinity for .*\.wav"):
        embed(bad, task, tmp_path / "bad")
    twice = module(tmp_path, monkeypatch, "twice", largest=99, then=".repeat(2, 1)")
    with pytest.raises(EmbeddingError, match=r"twice gives \[72, 4096\] for 36 clips, not \[36, D"):
        embed(twice, task, tmp_path / "twice")
    fails = module(tmp_path, monkeypatch, "fails", largest=99, then=".nonsense")
    with pytest.raises(EmbeddingError, match=r"fails on .*-0.wav and 35 more .* 'nonsense'"):
        embed(fails, task, tmp_path / "fails")
    clip = task.path / str(SAMPLE_RATE) / "valid" / "valid-1.wav"
    soundfile.write(clip, np.zeros((100, 2)), SAMPLE_RATE)
    with pytest.raises(TaskError, match=r"valid-1.wav: 16000 Hz with 2 channel.* wants .* mono"):
        embed(NAIVE, task, tmp_path / "stereo")
    clip.write_bytes(b"noise")
    with pytest.raises(TaskError, match=r"valid-1.wav: not decodable"):
        embed(NAIVE, task, tmp_path / "noise")
