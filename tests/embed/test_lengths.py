"""Clips of unequal lengths together against one by one, and what `embed` takes and answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.nn import functional as nnf

from hear_axlstm import get_scene_embeddings, get_timestamp_embeddings, load_model
from hear_axlstm.audio.mel import standardize
from hear_axlstm.config import ModelConfig, preset
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.embed.windows import SPREAD, batches

LENGTHS = (16_000, 1, 33_333, 70_000, 31_999, 239, 64_000, 36_000, 36_000)
SMALL = {
    "axlstm": ModelConfig(dim=32, depth=3),
    "flip": ModelConfig(dim=32, depth=3, flip=True),
    "patch": ModelConfig(dim=32, depth=2, patch=(8, 16)),
    "release": ModelConfig(dim=32, depth=2, layout="release"),
    "ssast": replace(preset("ssast_tiny"), dim=32, heads=2, depth=2),
}


@pytest.fixture(scope="module", params=SMALL)
def model(request: pytest.FixtureRequest) -> Embedder:
    torch.manual_seed(0)
    model = Embedder(SMALL[request.param]).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.fixture(scope="module")
def padded() -> torch.Tensor:
    """Noise everywhere, also past the ends: whatever leaks shows."""
    return torch.randn(len(LENGTHS), max(LENGTHS), generator=torch.Generator().manual_seed(0))


def test_scenes_equal_one_by_one(model: Embedder, padded: torch.Tensor) -> None:
    together = model.embed(padded, LENGTHS)
    alone = [
        get_scene_embeddings(row[None, :n], model) for row, n in zip(padded, LENGTHS, strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


def test_timestamps_equal_one_by_one(model: Embedder, padded: torch.Tensor) -> None:
    steps_BJD, times_BJ = model.embed(padded, LENGTHS, kind="timestamp")
    for row, length, steps_JD, times_J in zip(padded, LENGTHS, steps_BJD, times_BJ, strict=True):
        expected, ms = get_timestamp_embeddings(row[None, :length], model)
        inside = times_J.isfinite()
        assert torch.equal(times_J[inside], ms[0])
        torch.testing.assert_close(steps_JD[inside], expected[0], rtol=0, atol=1e-5)
        assert not steps_JD[~inside].any()


def test_equals_padding_every_window(model: Embedder, padded: torch.Tensor) -> None:
    """The plain way: each clip's own mel, zeros to whole windows, one window after the other."""
    width, patch = model.config.window_frames, model.config.patch[0]
    for row, length in zip(padded, LENGTHS, strict=True):
        mel = standardize(model.mel(row[None, :length]))
        whole = nnf.pad(mel, (0, 0, 0, -mel.shape[1] % width))
        with torch.no_grad():
            tokens = torch.cat([model.encoder(w)[0, 1:] for w in whole.split(width, dim=1)])
        bands = model.config.grid[1]
        if model.config.layout == "release":
            rows = tokens.unflatten(0, (-1, bands, model.config.grid[0])).transpose(1, 2)
        else:
            rows = tokens.unflatten(0, (-1, bands))
        expected = rows.reshape(-1, model.config.embedding_size)[: -(-mel.shape[1] // patch)]
        with torch.no_grad():
            torch.testing.assert_close(
                model.encode_steps([row[:length]])[0], expected, rtol=0, atol=2e-5
            )


def test_batches_hold_each_frame_once_and_keep_their_bounds() -> None:
    frames, budget = [1, 450, 200, 199, 33, 38, 180, 30], 800
    seen: dict[int, list[int]] = {}
    for batch in batches(frames, width=200, multiple=4, budget=budget):
        longest = batch[0].padded
        assert len(batch) == 1 or len(batch) * longest <= budget
        for window in batch:
            assert window.frames <= window.padded <= longest <= window.padded + SPREAD
            seen.setdefault(window.clip, []).extend(
                range(window.start, window.start + window.frames)
            )
    assert {clip: list(range(n)) for clip, n in enumerate(frames)} == seen


def test_fixed_statistics_replace_the_clips_own(model: Embedder, padded: torch.Tensor) -> None:
    clip = padded[3]
    own = model.fit_statistics(clip)
    torch.testing.assert_close(
        model.embed(clip, statistics=own), model.embed(clip), rtol=0, atol=1e-5
    )
    louder = model.embed(4 * clip, statistics=own)
    assert (louder - model.embed(clip)).abs().max() > 0.01


@pytest.mark.parametrize("level", [0.0, 0.3, 0.9])
def test_nothing_can_be_measured_of_a_constant(level: float, model: Embedder) -> None:
    with pytest.raises(ValueError, match="calibration audio is silent or constant: record"):
        model.fit_statistics(torch.full((16_000,), level))


@pytest.fixture(scope="module")
def tiny() -> Embedder:
    return load_model()


def test_answers_in_kind(tiny: Embedder, tmp_path: Path) -> None:
    tone = np.sin(np.arange(20_000) / 9).astype(np.float32)
    soundfile.write(tmp_path / "tone.wav", tone, 16_000, subtype="FLOAT")
    expected = tiny.embed(tone)
    assert isinstance(expected, np.ndarray) and expected.shape == (960,)
    answers = {
        "tensor": tiny.embed(torch.from_numpy(tone)),
        "path": tiny.embed(tmp_path / "tone.wav"),
        "text": tiny.embed(str(tmp_path / "tone.wav")),
        "list": tiny.embed([tone, tone[:500]])[0],
        "paths": tiny.embed([tmp_path / "tone.wav"])[0],
        "batch": tiny.embed(tone[None])[0],
        "float64": tiny.embed(tone.astype(">f8")),
    }
    for name, answer in answers.items():
        assert isinstance(answer, torch.Tensor if name == "tensor" else np.ndarray), name
        np.testing.assert_allclose(np.asarray(answer), expected, rtol=0, atol=1e-5, err_msg=name)
    steps, times = tiny.embed([tone, tone[:500]], kind="timestamp")
    assert [len(s) for s in steps] == [len(t) for t in times] == [31, 1]
    steps, times = tiny.embed(tone, kind="timestamp")
    assert steps.shape == (31, 960) and times[1] == 55


TONE = np.zeros(800, np.float32)
BAD = {
    "kind": ((TONE, None, "clip"), ValueError, "scene, timestamp"),
    "nothing": (([],), ValueError, "at least one"),
    "no samples": (([TONE, TONE[:0]],), ValueError, "clip 1 has no samples"),
    "channels": (([TONE[None]],), ValueError, "mono"),
    "rank 3": ((TONE[None, None],), ValueError, "mono"),
    "integers": (([TONE.astype("i2")],), TypeError, "32768"),
    "text": (([TONE.astype("U1")],), TypeError, "array of <U1: pass real samples"),
    "NaN": (([TONE, TONE * np.nan],), ValueError, "clip 1 has a sample of magnitude nan"),
    "no file": (("gone.wav",), ValueError, "gone.wav: no such file"),
    "number": ((3,), TypeError, "a path, an array, or a list"),
    "lengths of a list": (([TONE], [3]), ValueError, "leave them out"),
    "too few lengths": ((TONE.reshape(2, -1), [3]), ValueError, "1 lengths for 2 clips"),
    "too long": ((TONE[None], [801]), ValueError, r"lengths\[0\]=801"),
    "too short": ((TONE[None], [0]), ValueError, r"lengths\[0\]=0"),
    "statistics": ((TONE, None, "scene", (0.0, 0.0)), ValueError, "model.fit_statistics"),
    "one statistic": ((TONE, None, "scene", 3.0), ValueError, "model.fit_statistics"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_get_one_clear_error(tiny: Embedder, name: str) -> None:
    arguments, error, remedy = BAD[name]
    with pytest.raises(error, match=remedy):
        tiny.embed(*arguments)
