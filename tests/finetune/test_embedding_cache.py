"""The cache of embeddings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch

from hear_axlstm import load_model
from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.files import replacing
from hear_axlstm.finetune.embedding_cache import cached_scenes
from tests.helpers.platforms import die, posix_only
from tests.helpers.runs import start_process


def test_embeddings_are_computed_once(
    tones: Path, encoder: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(encoder)
    clips = [AudioClip(f"{n}", str(tones.parent / f"{n}.wav")) for n in range(3)]
    first = cached_scenes(model, clips)
    monkeypatch.setattr(Embedder, "encode_scenes", None)
    again = cached_scenes(model, clips)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))  # type: ignore[arg-type]
    monkeypatch.undo()
    with torch.no_grad():
        model.encoder.cls_token += 1.0
    model.fuse()
    assert not torch.equal(cached_scenes(model, clips)[0], first[0])  # type: ignore[arg-type]


@posix_only
def test_threads_do_not_share_a_file_and_those_of_killed_processes_are_removed(
    tones: Path, encoder: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, clips = load_model(encoder), [AudioClip("0", str(tones.parent / "0.wav"))]
    first, save, written = cached_scenes(model, clips), np.save, []
    (file,) = cache.glob("scenes-*/*.npy")
    process = start_process(write_half_and_die, file)
    process.join()
    assert len(list(file.parent.iterdir())) == 2
    file.unlink()

    def save_after_another(stream: BinaryIO, scene: np.ndarray) -> None:
        written.append(stream.name)
        if len(written) == 1:
            cached_scenes(model, clips)  # as another thread would at this time
        save(stream, scene)

    monkeypatch.setattr(np, "save", save_after_another)
    cached_scenes(model, clips)
    assert len(set(written)) == 2 and list(file.parent.iterdir()) == [file]
    assert torch.equal(cached_scenes(model, clips)[0], first[0])  # type: ignore[arg-type]


def write_half_and_die(path: Path) -> None:
    with replacing(path, can_be_lost=True) as partial:
        partial.write_text("half", "utf-8")
        die()


def test_a_cache_that_can_not_be_used_costs_nothing_but_time(
    tones: Path, encoder: str, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, clips = load_model(encoder), [AudioClip("0", str(tones.parent / "0.wav"))]
    first = cached_scenes(model, clips)
    (file,) = cache.glob("scenes-*/*.npy")
    for damage in (b"", file.read_bytes()[:200], b"no array"):
        file.write_bytes(damage)
        assert torch.equal(cached_scenes(model, clips)[0], first[0])  # type: ignore[arg-type]
    shutil.rmtree(cache)
    cache.touch()  # no folder can be made there
    assert torch.equal(cached_scenes(model, clips)[0], first[0])  # type: ignore[arg-type]
    assert "embeddings are not cached" in caplog.text
