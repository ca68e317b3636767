"""Naive, spectrum, log-mel, and the adapter for modules that process one clip at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hearvalidator.validate import ValidateModel

from hearbench.systems import logmel, msm_mae, naive, spectrum
from hearbench.systems.parts.htk_mel import HtkLogMel

STAND_IN = """
import torch


class Model(torch.nn.Module):
    sample_rate, scene_embedding_size, timestamp_embedding_size = 16_000, 3_840, 3_840


def load_model(model_file_path=""):
    assert model_file_path == "checkpoint-100.pth"
    return Model()


def get_timestamp_embeddings(audio, model):
    audio = (audio - audio.mean()) / audio.std()  # over the whole batch
    steps = audio.unfold(1, 2_560, 2_560)
    times = 160.0 * torch.arange(steps.shape[1]).expand(len(audio), -1)
    return torch.nn.functional.pad(steps, (0, 1_280)), times


def get_scene_embeddings(audio, model):
    return get_timestamp_embeddings(audio, model)[0].mean(1)
"""

HEARBASELINE = [
    *(-2.7458, -2.7398, -2.7561, -2.7952, -2.8580, -2.9460, -3.0770, -3.2860),
    *(-3.6416, -4.1308, -4.7454, -4.4969, -3.5513, -2.8639, -2.6320, -3.1491),
]


def noise(clips: int, samples: int) -> torch.Tensor:
    return torch.randn(clips, samples, generator=torch.Generator().manual_seed(0)) * 0.1


def test_naive_follows_the_hear_api() -> None:
    model = naive.load_model()
    audio = torch.rand(2, 16_000) * 2 - 1
    embeddings, times = naive.get_timestamp_embeddings(audio, model)
    assert embeddings.shape == (2, 21, 4096) and times.shape == (2, 21)
    assert times[0, :3].tolist() == [0.0, 50.0, 100.0]
    scene = naive.get_scene_embeddings(audio, model)
    # Scenes are averages over frames 250 ms apart, which are every fifth of the timestamps'.
    torch.testing.assert_close(scene, embeddings[:, ::5].mean(dim=1), rtol=1e-4, atol=1e-4)
    assert torch.equal(scene, naive.get_scene_embeddings(audio, naive.load_model()))


def test_naive_has_the_log_mel_of_hearbaseline() -> None:
    audio = torch.zeros(1, 16_000)
    audio[0, 8_000], audio[0, 8_003] = 0.5, 0.25
    model = naive.load_model()
    assert (model.mel_filters.sum(dim=0) > 0).all()  # none is empty
    # Every 16th bin as computed by the model class of hearbaseline 2021.1.1 with librosa 0.11, with
    # `sample_rate` 16000 and `n_fft` 2048.
    expected = torch.tensor(HEARBASELINE)
    torch.testing.assert_close(model.log_mel(audio, 250)[0, 2, ::16], expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("module", [spectrum, logmel])
def test_the_official_validator_accepts_it(module) -> None:
    ValidateModel(module.__name__, "", device="cpu")()
    with pytest.raises(ValueError, match="takes no weights file: leave out 'x'"):
        module.load_model("x")
    model = module.load_model()
    for samples in (1, 100, 16_000):
        scene = module.get_scene_embeddings(noise(2, samples), model)
        assert scene.isfinite().all() and scene.shape == (2, model.scene_embedding_size)


def test_spectrum() -> None:
    audio = noise(1, 1_000)
    padded = np.pad(audio[0].numpy(), 256)
    frames = [np.abs(np.fft.rfft(padded[start : start + 512])) for start in (0, 320, 640, 960)]
    expected = np.log1p(np.stack(frames))
    model = spectrum.load_model()
    embeddings, times = spectrum.get_timestamp_embeddings(audio, model)
    np.testing.assert_allclose(embeddings[0], expected, rtol=1e-4, atol=1e-5)
    assert times[0].tolist() == [0.0, 20.0, 40.0, 60.0]
    scene = spectrum.get_scene_embeddings(audio, model)[0]
    np.testing.assert_allclose(scene, expected.mean(axis=0), rtol=1e-4, atol=1e-5)


def test_logmel() -> None:
    audio = noise(2, 16_000)
    frames = HtkLogMel()(audio)[1].numpy()  # [101, 80]
    model = logmel.load_model()
    scene = logmel.get_scene_embeddings(audio, model)[1]
    expected = np.concatenate([frames.mean(axis=0), frames.std(axis=0)])
    np.testing.assert_allclose(scene, expected, rtol=1e-4, atol=1e-4)
    embeddings, times = logmel.get_timestamp_embeddings(audio, model)
    assert times[1].tolist() == [50.0 * i for i in range(21)]
    around = frames[40:61]  # centered on frame 50: 500 ms
    expected = np.concatenate([around.mean(axis=0), around.std(axis=0)])
    np.testing.assert_allclose(embeddings[1, 10], expected, rtol=1e-4, atol=1e-4)


def test_a_module_that_normalizes_over_the_batch_sees_one_clip_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_hear_module.py").write_text(STAND_IN, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "their_hear_module@checkpoint-100.pth"
    ValidateModel("hearbench.systems.msm_mae", name, device="cpu")()
    model = msm_mae.load_model(name)
    audio = noise(2, 16_000) * torch.tensor([[1.0], [9.0]])
    together = msm_mae.get_scene_embeddings(audio, model)
    alone = torch.cat([msm_mae.get_scene_embeddings(clip[None], model) for clip in audio])
    assert torch.equal(together, alone) and together.shape == (2, 3_840)
    assert not torch.allclose(together, model.module.get_scene_embeddings(audio, model.model))


def test_modules_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="msm_mae@MODULE@CHECKPOINT"):
        msm_mae.load_model()
    with pytest.raises(ImportError, match="can't import 'absent_module'"):
        msm_mae.load_model("absent_module@x")
    with pytest.raises(ValueError, match="json is not a HEAR module: it lacks load_model"):
        msm_mae.load_model("json@x")
