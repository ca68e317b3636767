"""Reading and writing weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hear_axlstm import get_scene_embeddings, load_model, weights
from hear_axlstm.config import ModelConfig
from hear_axlstm.reconstruction import ReconstructionModel

CONFIG = ModelConfig(dim=48, depth=2, expansion=2, patch=(8, 16), flip=True, input_gate="sigmoid")


@pytest.fixture
def model() -> ReconstructionModel:
    torch.manual_seed(0)
    return ReconstructionModel(CONFIG)


@pytest.fixture
def file(model: ReconstructionModel, tmp_path: Path) -> Path:
    path = tmp_path / weights.FILE_NAME
    weights.save(path, model, {"corpus": "tones"}, torch.float32)
    return path


def test_a_file_describes_itself(file: Path, model: ReconstructionModel) -> None:
    config, training, tensors = weights.read(file)
    assert config == CONFIG and training == {"corpus": "tones"}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensors[name], tensor)


@pytest.mark.parametrize("as_folder", [True, False])
def test_load_model_takes_a_file_or_its_folder(
    file: Path, model: ReconstructionModel, as_folder: bool
) -> None:
    loaded = load_model(str(file.parent if as_folder else file))
    assert loaded.config == CONFIG and not loaded.training
    mel = torch.randn(1, 200, 80)
    torch.testing.assert_close(loaded.encoder(mel), model.encoder.eval()(mel))


def test_a_model_starts_from_the_weights_of_the_same_encoder_only(
    file: Path, model: ReconstructionModel
) -> None:
    other = ReconstructionModel(replace(CONFIG, loss_on="all"))
    weights.initialize(other, str(file))
    assert torch.equal(other.head[0].weight, model.head[0].weight)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"another encoder.*flip=True"):
        weights.initialize(ReconstructionModel(replace(CONFIG, flip=False)), str(file))


def test_float16_files_load_as_float32(model: ReconstructionModel, tmp_path: Path) -> None:
    weights.save(tmp_path / "half.safetensors", model, {}, torch.float16)
    loaded = load_model(str(tmp_path / "half.safetensors"))
    assert get_scene_embeddings(torch.randn(1, 8000), loaded).dtype == torch.float32
    torch.testing.assert_close(
        loaded.encoder.cls_token, model.encoder.cls_token, rtol=1e-3, atol=1e-5
    )


def test_damaged_and_foreign_files_are_refused(file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.safetensors is no complete"):
        load_model(str(cut))
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(ValueError, match="not a file of this package"):
        load_model(str(foreign))


def test_tensors_that_do_not_fit_the_settings_are_refused(
    model: ReconstructionModel, tmp_path: Path
) -> None:
    header = {"format": 1, "model": {**CONFIG.to_dict(), "depth": 3}, "training": {}}
    path = tmp_path / "mismatch.safetensors"
    save_file(model.state_dict(), path, metadata={weights.HEADER_KEY: json.dumps(header)})
    with pytest.raises(ValueError, match="do not fit its settings"):
        load_model(str(path))


@pytest.mark.parametrize(
    ("spec", "error"),
    [("nowhere.safetensors", FileNotFoundError), ("axlstm_huge", FileNotFoundError)],
)
def test_unknown_weights_list_what_can_be_passed(spec: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"axlstm_tiny.*hf://"):
        load_model(spec)


def test_hub_addresses_name_repo_revision_and_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(repo: str, name: str, revision: str | None) -> str:
        asked.append((repo, name, revision))
        return str(file)

    monkeypatch.setattr(weights, "hf_hub_download", download)
    for spec in ("hf://lab/axlstm", "hf://lab/axlstm@v2", "hf://lab/axlstm@v2/runs/a.safetensors"):
        assert load_model(spec).config == CONFIG
    assert asked == [
        ("lab/axlstm", "model.safetensors", None),
        ("lab/axlstm", "model.safetensors", "v2"),
        ("lab/axlstm", "runs/a.safetensors", "v2"),
    ]
    with pytest.raises(ValueError, match="incomplete"):
        load_model("hf://lab")


def test_shipped_weights_match_their_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = weights.manifest()
    assert shipped["default"] in shipped["weights"]
    for name in shipped["weights"]:
        load_model(name)
    wrong = {name: {**entry, "sha256": "0" * 64} for name, entry in shipped["weights"].items()}
    monkeypatch.setattr(weights, "manifest", lambda: {**shipped, "weights": wrong})
    with pytest.raises(ValueError, match="checksum"):
        load_model()
