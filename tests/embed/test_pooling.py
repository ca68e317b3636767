"""Scene embeddings as mean and standard deviation over time, in every place that makes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from hear_axlstm import Embedder, checkpoints, get_scene_embeddings, load_model
from hear_axlstm.checkpoints.model_card import write_card
from hear_axlstm.config import ModelConfig
from hear_axlstm.embed.files import Stored, embed_files
from hear_axlstm.embed.output import OutputError
from hear_axlstm.embed.pooling import WindowPooling, pool
from hear_axlstm.models.pretraining import MaskedPatchModel

SMALL = ModelConfig(dim=16, depth=1)
WIDTH = SMALL.embedding_size
LENGTHS = (16_000, 300, 70_000, 64_000)  # the second has one step, the last two several windows


@pytest.fixture
def model() -> Embedder:
    torch.manual_seed(0)
    return Embedder(replace(SMALL, pooling="mean_std")).infer()


@pytest.fixture
def weights(tmp_path: Path) -> str:
    path = tmp_path / "small.safetensors"
    checkpoints.save(path, MaskedPatchModel(SMALL), {}, torch.float32)
    return str(path)


def by_numpy(steps_JD: Tensor) -> np.ndarray:
    steps = steps_JD.double().numpy()
    return np.concatenate([steps.mean(0), steps.std(0)])


def test_scenes_are_mean_and_deviation_of_all_steps(model: Embedder) -> None:
    clips = [torch.randn(length) for length in LENGTHS]
    with torch.no_grad():
        steps = model.encode_steps(clips)
        scenes = model.encode_scenes(clips)
    assert scenes.shape == (len(clips), 2 * WIDTH) and model.scene_embedding_size == 2 * WIDTH
    assert model.timestamp_embedding_size == WIDTH
    expected = np.stack([by_numpy(steps_JD) for steps_JD in steps])
    np.testing.assert_allclose(scenes.numpy(), expected, rtol=1e-4, atol=1e-5)
    audio = torch.randn(2, 16_000)
    torch.testing.assert_close(get_scene_embeddings(audio, model), model.embed_scenes(audio))
    with torch.no_grad():
        assert model.embed_timestamps(audio)[0].shape[-1] == WIDTH


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_windows_in_any_order_equal_the_clip_as_a_whole(offset: float) -> None:
    steps_JD = torch.randn(120, 8) + offset
    windows = torch.nn.functional.pad(steps_JD, (0, 0, 0, 30), value=torch.inf)
    windows = windows.nan_to_num(posinf=7.0).view(3, 50, 8)  # padding that must not count
    pooling = WindowPooling("mean_std")
    pooling.add([0, 1], [20, 50], windows[[2, 0]])
    pooling.add([0, 0], [50, 50], windows[:2])
    whole, first = pooling.scenes().numpy()
    # float32 rounds the mean, and so shifts the deviations, by up to offset * 2^-24
    bound = 1e-5 + 1e-6 * offset
    np.testing.assert_allclose(whole, by_numpy(steps_JD), rtol=0, atol=bound)
    np.testing.assert_allclose(first, by_numpy(steps_JD[:50]), rtol=0, atol=bound)
    np.testing.assert_allclose(pool(steps_JD, "mean_std").numpy(), whole, rtol=0, atol=bound)


def test_one_step_has_a_finite_gradient() -> None:
    steps = torch.randn(1, 1, 8, requires_grad=True)
    pooling = WindowPooling("mean_std")
    pooling.add([0], [1], steps)
    for scene in (pooling.scenes()[0], pool(steps[0], "mean_std")):
        assert scene[8:].max() < 1e-5
        (gradient,) = torch.autograd.grad(scene.sum(), steps)
        torch.testing.assert_close(gradient, torch.ones_like(steps))


def test_weights_record_it_and_load_model_overrides_it(tmp_path: Path, weights: str) -> None:
    assert load_model(weights).scene_embedding_size == WIDTH
    model = load_model(weights, pooling="mean_std")
    path = tmp_path / "recorded.safetensors"
    checkpoints.save(path, model, {}, torch.float32)
    assert load_model(path).scene_embedding_size == 2 * WIDTH
    assert load_model(path, pooling="mean").scene_embedding_size == WIDTH
    audio = torch.randn(1, 40_000)
    found = get_scene_embeddings(audio, model)
    mean = get_scene_embeddings(audio, load_model(path, pooling="mean"))
    torch.testing.assert_close(found[:, :WIDTH], mean)
    with pytest.raises(ValueError, match=r"pooling='max': choose one of \('mean', 'mean_std'\)"):
        load_model(weights, pooling="max")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["scene", "both"])
def test_files_hold_both_widths(kind: Stored, weights: str, tmp_path: Path) -> None:
    sound = 0.1 * np.random.default_rng(0).standard_normal(40_000).astype("f4")
    soundfile.write(tmp_path / "a.wav", sound, 16_000, subtype="FLOAT")
    model = load_model(weights, pooling="mean_std")
    embed_files([str(tmp_path / "a.wav")], tmp_path / "out", model, kind)
    scene = np.load(next((tmp_path / "out" / "scene").rglob("*.npy")))
    np.testing.assert_allclose(scene, model.embed(sound), rtol=1e-4, atol=1e-5)
    if kind == "scene":
        embed_files([str(tmp_path / "a.wav")], tmp_path / "out.npy", model, kind)
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy")[0], scene)
        return
    with pytest.raises(OutputError, match=r"settings: pooling \('mean_std', now 'mean'\)\. Choose"):
        embed_files([str(tmp_path / "a.wav")], tmp_path / "out", load_model(weights), kind)
    parquet = pytest.importorskip("pyarrow.parquet")
    embed_files([str(tmp_path / "a.wav")], tmp_path / "out.parquet", model, kind)
    table = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert len(table["scene"][0]) == 2 * WIDTH and len(table["steps"][0][0]) == WIDTH
    np.testing.assert_array_equal(np.array(table["scene"][0], "f4"), scene)


def test_a_model_card_has_both_widths(model: Embedder) -> None:
    card = write_card("org/it", model.config, {}, {}, None)
    assert f"scene = get_scene_embeddings(audio, model)  # [1, {2 * WIDTH}]" in card
    assert f"# [1, steps, {WIDTH}]" in card
