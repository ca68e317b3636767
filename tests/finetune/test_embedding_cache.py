"""The cache of embeddings."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from hear_axlstm import load_model
from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.finetune.embedding_cache import cached_scenes


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
