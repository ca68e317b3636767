"""wav2vec 2.0, HuBERT and WavLM of random weights, as checkpoints on disk."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hearbench.systems import huggingface
from hearbench.systems.fingerprint import check_unchanged, fingerprint
from hearbench.systems.huggingface import FAMILIES, load_model
from hearbench.systems.specs import load_system, parse_system

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def checkpoint(folder: Path, family: str, **changes: object) -> Path:
    """A tiny model of random weights, as `save_pretrained` writes it."""
    config = transformers.AutoConfig.for_model(family, **{**SIZES, **changes})
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    features = transformers.Wav2Vec2FeatureExtractor(do_normalize=family != "wavlm")
    features.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("models") / request.param, request.param)


def noise(clips: int, samples: int) -> torch.Tensor:
    return torch.randn(clips, samples, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.05


def test_the_same_as_by_transformers(path: Path) -> None:
    audio = noise(3, 8_000)
    model = load_model(str(path))
    features = transformers.AutoFeatureExtractor.from_pretrained(path)
    inputs = features(list(audio.numpy()), sampling_rate=16_000, return_tensors="pt")
    theirs = transformers.AutoModel.from_pretrained(path).eval()
    with torch.no_grad():
        expected = theirs(inputs["input_values"]).last_hidden_state
    steps, times = huggingface.get_timestamp_embeddings(audio, model)
    torch.testing.assert_close(steps, expected, rtol=1e-4, atol=1e-5)
    scene = huggingface.get_scene_embeddings(audio, model)
    torch.testing.assert_close(scene, expected.mean(dim=1), rtol=1e-4, atol=1e-5)
    assert model.scene_embedding_size == model.timestamp_embedding_size == scene.shape[1] == 24
    assert times.shape == steps.shape[:2] and not steps.requires_grad


def test_the_official_validator_accepts_it(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hearvalidator.validate import ValidateModel

    ValidateModel("hearbench.systems.huggingface", str(path), device="cpu")()
    assert "Received embedding of shape: torch.Size([8, 24])" in capsys.readouterr().out


def test_times_are_the_centers_of_what_a_frame_sees(tmp_path: Path) -> None:
    # layer norm stays within a frame; the published base models' group norm spans the clip
    model = load_model(str(checkpoint(tmp_path, "hubert", feat_extract_norm="layer")))
    audio = torch.randn(1, 4_000, requires_grad=True)
    frames = model.encoder.feature_extractor(audio)  # [B, D, T]
    times = huggingface.get_timestamp_embeddings(audio.detach(), model)[1][0]
    assert len(times) == frames.shape[-1]
    for frame in (0, 5, len(times) - 1):
        (gradient,) = torch.autograd.grad(frames[0, :, frame].sum(), audio, retain_graph=True)
        seen = np.flatnonzero(gradient[0].numpy())
        assert times[frame] == pytest.approx((seen[0] + seen[-1] + 1) / 2 / 16, abs=1e-3)
    assert times[1] - times[0] == 20


@pytest.mark.parametrize(
    ("samples", "frames"), [(1, 1), (400, 1), (719, 1), (720, 2), (16_000, 49)]
)
def test_any_length(path: Path, samples: int, frames: int) -> None:
    steps, _ = huggingface.get_timestamp_embeddings(noise(1, samples), load_model(str(path)))
    assert steps.shape == (1, frames, 24) and steps.isfinite().all()


def test_as_a_system(path: Path) -> None:
    system = parse_system(f"hearbench.systems.huggingface@{path}")
    assert system.label == f"hearbench.systems.huggingface-{path.name}"
    found = fingerprint(system)
    assert found.sample_rate == 16_000 and found.parameters > 1_000


@pytest.mark.parametrize("path", FAMILIES[:1], indirect=True)
def test_missing_weights_of_training_are_the_same_in_every_process(
    path: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    incomplete = Path(shutil.copytree(path, tmp_path / "incomplete"))
    weights = load_file(incomplete / "model.safetensors")
    del weights["masked_spec_embed"]
    save_file(weights, incomplete / "model.safetensors", metadata={"format": "pt"})
    system = parse_system(f"huggingface@{incomplete}")
    check_unchanged(system, *load_system(system), fingerprint(system))
    audio = noise(1, 8_000)
    expected = huggingface.get_scene_embeddings(audio, load_model(str(path)))
    assert expected.equal(huggingface.get_scene_embeddings(audio, load_model(str(incomplete))))


def test_what_cant_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"e\.g\. facebook/wav2vec2-base"):
        load_model()
    with pytest.raises(ValueError, match=r"absent: no such folder"):
        load_model(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match=r"no checkpoint with config\.json"):
        load_model(str(tmp_path))
    good = checkpoint(tmp_path / "good", "hubert")
    (good / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"and preprocessor_config.json"):
        load_model(str(good))
    adapter = checkpoint(tmp_path / "adapter", "wav2vec2", add_adapter=True)
    with pytest.raises(ValueError, match=r"a wav2vec2 model: .* without an adapter"):
        load_model(str(adapter))
    deeper = checkpoint(tmp_path / "deeper", "hubert", num_hidden_layers=1)
    text = (deeper / "config.json").read_text("utf-8")
    (deeper / "config.json").write_text(
        text.replace('"num_hidden_layers": 1', '"num_hidden_layers": 2'), "utf-8"
    )
    with pytest.raises(ValueError, match=r"lacks 16 weights, e\.g\. encoder\.layers\.1"):
        load_model(str(deeper))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"eval\[huggingface\]"):
        load_model(str(adapter))
