"""All adapters alike: shapes, any length, batches, the official validator, and what they refuse."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hearvalidator.validate import ValidateModel

from hearbench.systems.parts.checkpoint import CheckpointError
from tests.helpers.system_checkpoints import WRITERS


@pytest.fixture(scope="module", params=WRITERS)
def loaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModuleType, torch.nn.Module, Path]:
    path = WRITERS[request.param](tmp_path_factory.mktemp(request.param))
    module = import_module(f"hearbench.systems.{request.param}")
    return module, module.load_model(str(path)), path


def noise(clips: int, samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(clips, samples, generator=torch.Generator().manual_seed(seed)) * 0.1


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.2, 2.01, 11.3])
def test_any_length_and_batches_equal_single_clips(loaded, seconds: float) -> None:
    module, model, _ = loaded
    audio = noise(3, 1 + int(seconds * model.sample_rate))
    scenes = module.get_scene_embeddings(audio, model)
    steps, times = module.get_timestamp_embeddings(audio, model)
    assert scenes.shape == (3, model.scene_embedding_size) and scenes.dtype == torch.float32
    assert steps.shape == (*times.shape, model.timestamp_embedding_size)
    assert scenes.isfinite().all() and steps.isfinite().all()
    assert (times >= 0).all() and (times.diff() > 0).all()
    assert times.max() <= max(100, 1000 * seconds)
    for index, clip in enumerate(audio):
        assert distance(module.get_scene_embeddings(clip[None], model)[0], scenes[index]) < 1e-5
        alone, _ = module.get_timestamp_embeddings(clip[None], model)
        assert distance(alone[0], steps[index]) < 1e-5
    assert seconds < 0.1 or distance(scenes[0], scenes[1]) > 1e-3
    assert not scenes.requires_grad and not steps.requires_grad


def test_the_official_validator_accepts_it(loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, path = loaded
    # hearvalidator 2021.0.2 does not know 32 kHz, the rate of PaSST's own entry to HEAR 2021
    rates = [*ValidateModel.ACCEPTABLE_SAMPLE_RATE, 32_000]
    monkeypatch.setattr(ValidateModel, "ACCEPTABLE_SAMPLE_RATE", rates)
    ValidateModel(module.__name__, str(path), device="cpu")()


def test_audio_of_another_shape_is_refused(loaded) -> None:
    module, model, _ = loaded
    for shape in ((16_000,), (1, 0), (1, 1, 16_000)):
        with pytest.raises(ValueError, match=r"give \[clips, samples\]"):
            module.get_scene_embeddings(torch.zeros(shape), model)
        with pytest.raises(ValueError, match=r"give \[clips, samples\]"):
            module.get_timestamp_embeddings(torch.zeros(shape), model)


def test_checkpoints_that_do_not_fit_are_refused_by_name(loaded, tmp_path: Path) -> None:
    module = loaded[0]
    name = module.__name__.rpartition(".")[2]
    with pytest.raises(CheckpointError, match="no checkpoint: give the path"):
        module.load_model()
    with pytest.raises(CheckpointError, match="does not exist"):
        module.load_model(str(tmp_path / "absent.pt"))
    junk = tmp_path / "junk.pt"
    junk.write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(CheckpointError, match=r"junk\.pt is not a complete"):
        module.load_model(str(junk))
    for other, write in WRITERS.items():
        if other != name:
            (tmp_path / other).mkdir()
            foreign = write(tmp_path / other)
            with pytest.raises(CheckpointError, match=str(tmp_path / other)):
                module.load_model(str(foreign))


@pytest.mark.slow
def test_twenty_minutes(loaded) -> None:
    module, model, _ = loaded
    audio = noise(1, 1200 * model.sample_rate)
    assert module.get_scene_embeddings(audio, model).isfinite().all()
    steps, times = module.get_timestamp_embeddings(audio, model)
    assert steps.isfinite().all() and times.max() > 1199_000
