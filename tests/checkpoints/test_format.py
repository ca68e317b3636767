"""Reading and writing weights."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hear_axlstm import checkpoints, get_scene_embeddings, load_model
from hear_axlstm.checkpoints import checksum, format
from hear_axlstm.config import ModelConfig
from hear_axlstm.models.pretraining import MaskedPatchModel

CONFIG = ModelConfig(dim=48, depth=2, expansion=2, patch=(8, 16), flip=True, input_gate="sigmoid")


@pytest.fixture
def model() -> MaskedPatchModel:
    torch.manual_seed(0)
    return MaskedPatchModel(CONFIG)


@pytest.fixture
def file(model: MaskedPatchModel, tmp_path: Path) -> Path:
    path = tmp_path / checkpoints.FILE_NAME
    checkpoints.save(path, model, {"corpus": "tones"}, torch.float32)
    return path


def test_a_file_describes_itself(file: Path, model: MaskedPatchModel) -> None:
    config, training, tensors = checkpoints.read(file)
    assert config == CONFIG and training == {"corpus": "tones"}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensors[name], tensor)


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("as_folder", [True, False])
def test_load_model_takes_a_file_or_its_folder(
    file: Path, model: MaskedPatchModel, as_folder: bool, kind: type[str | Path]
) -> None:
    loaded = load_model(kind(file.parent if as_folder else file))
    assert loaded.config == CONFIG and not loaded.training
    mel = torch.randn(1, 200, 80)
    torch.testing.assert_close(loaded.unfuse().encoder(mel), model.encoder.eval()(mel))


def test_a_model_starts_from_the_weights_of_the_same_encoder_only(
    file: Path, model: MaskedPatchModel
) -> None:
    other = MaskedPatchModel(replace(CONFIG, loss_on="all"))
    checkpoints.initialize(other, str(file))
    assert torch.equal(other.head[0].weight, model.head[0].weight)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"another encoder: .*\(flip=True\), or"):
        checkpoints.initialize(MaskedPatchModel(replace(CONFIG, flip=False)), str(file))


def test_float16_files_load_as_float32(model: MaskedPatchModel, tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "half.safetensors", model, {}, torch.float16)
    loaded = load_model(str(tmp_path / "half.safetensors"))
    assert get_scene_embeddings(torch.randn(1, 8000), loaded).dtype == torch.float32
    torch.testing.assert_close(
        loaded.encoder.cls_token, model.encoder.cls_token, rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize(("value", "dtype"), [(torch.nan, torch.float32), (1e5, torch.float16)])
def test_values_that_are_not_finite_are_not_saved(
    value: float, dtype: torch.dtype, model: MaskedPatchModel, file: Path
) -> None:
    before = file.read_bytes()
    model.encoder.cls_token.data[3] = value
    with pytest.raises(
        ValueError, match=r"model\.safetensors: encoder\.cls_token contains NaN or inf"
    ):
        checkpoints.save(file, model, {}, dtype)
    assert file.read_bytes() == before


def test_values_that_are_not_finite_are_not_loaded(file: Path) -> None:
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        header = opened.metadata()
    tensors["encoder.cls_token"][3] = torch.inf
    save_file(tensors, file, metadata=header)
    with pytest.raises(ValueError, match=r"model\.safetensors: cls_token contains NaN or infinite"):
        load_model(str(file))


def test_what_can_not_be_written_leaves_nothing(
    model: MaskedPatchModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(_: object, path: Path, **__: object) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device")

    with pytest.raises(OSError, match=r"can't write .*none/a\.safetensors .*: free some space"):
        checkpoints.save(tmp_path / "none" / "a.safetensors", model, {}, torch.float32)
    monkeypatch.setattr(format, "save_file", fill_the_disk)
    with pytest.raises(OSError, match=r"can't write .*a\.safetensors \(No space left.*: free some"):
        checkpoints.save(tmp_path / "a.safetensors", model, {}, torch.float32)
    assert not list(tmp_path.iterdir())


def test_the_umask_decides_who_can_read(model: MaskedPatchModel, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        checkpoints.save(tmp_path / "mine.safetensors", model, {}, torch.float32)
    finally:
        os.umask(before)
    assert (tmp_path / "mine.safetensors").stat().st_mode & 0o777 == 0o600


def test_damaged_and_foreign_files_are_refused(file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.safetensors is not a valid"):
        load_model(str(cut))
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(ValueError, match="this package did not write it"):
        load_model(str(foreign))


SETTINGS = CONFIG.to_dict()
MISMATCHES = {
    "deeper": ({**SETTINGS, "depth": 3}, r"fit its settings: encoder\.blocks\.2\.\S+ is missing"),
    "shallower": ({**SETTINGS, "depth": 1}, r"encoder\.blocks\.1\.\S+ is unknown.* and \d+ more"),
    "wider": ({**SETTINGS, "dim": 64}, r"encoder\.cls_token has shape \(48,\) instead of \(64,\)"),
    "unknown setting": ({**SETTINGS, "window": "hann"}, r"mismatch.*unknown .*'window'"),
    "unknown mel setting": ({**SETTINGS, "mel": {"fmin": 0}}, r"mismatch.*MelConfig.*'fmin'"),
    "unknown choice": ({**SETTINGS, "input_gate": "relu"}, "mismatch.*input_gate='relu'"),
    "no heads": ({**SETTINGS, "heads": 0}, "mismatch.*heads=0 must be a whole number from 1 to"),
    "negative": ({**SETTINGS, "dim": -192}, "mismatch.*dim=-192 must be a whole number"),
    "endless": ({**SETTINGS, "window_frames": 10**8}, "window_frames=100000000 must be a whole"),
    "half a hop": ({**SETTINGS, "mel": {"hop_length": 0.5}}, "hop_length=0.5 must be a whole"),
    "not a flag": ({**SETTINGS, "flip": "no"}, "flip='no' must be true or false"),
    "endlessly deep": ({**SETTINGS, "depth": 2**31}, "depth=2147483648 must be a whole number"),
    "very deep": ({**SETTINGS, "depth": 1000}, r"blocks\.2\.\S+ is missing.* and \d+ more"),
    "very wide": ({**SETTINGS, "dim": 2**20}, "dim=1048576 must be a whole number"),
    "beyond 64 bits": ({**SETTINGS, "expansion": 2**63}, "expansion=.* must be a whole number"),
    "many bins": ({**SETTINGS, "mel": {"n_mels": 160_000_000}}, "n_mels=160000000 must be"),
    "many patches": (
        {**SETTINGS, "mel": {"n_mels": 1024}, "window_frames": 60_000},
        "make 480,000 patches, more than 150,000",
    ),
    **{
        f"edge {edge!r}": ({**SETTINGS, "mel": {"f_min": edge}}, r"f_min=.* must be frequencies")
        for edge in (None, "50", [50], float("nan"), float("inf"), -1.0, 9000.0, True)
    },
    "another type": ({**SETTINGS, "dim": "48"}, "header of .*mismatch"),
}


@pytest.mark.parametrize("kind", MISMATCHES)
def test_what_does_not_fit_is_named(kind: str, model: MaskedPatchModel, tmp_path: Path) -> None:
    settings, message = MISMATCHES[kind]
    header = {"format": 1, "model": settings, "training": {}}
    path = tmp_path / "mismatch.safetensors"
    save_file(model.state_dict(), path, metadata={checkpoints.HEADER_KEY: json.dumps(header)})
    with pytest.raises(ValueError, match=message):
        load_model(str(path))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{}", "lacks 'format'"),
        ('{"format": 2}', "format 2, but this"),
        ("{", "can't be used"),
        ("[" * 100_000, "can't be used"),
        ("[]", "can't be used"),
        ('{"format": 1, "model": 3, "training": {}}', "can't be used"),
        ('{"format": 1, "model": {}, "training": 3}', "can't be used"),
    ],
)
def test_other_headers_are_refused(header: str, message: str, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "a", metadata={checkpoints.HEADER_KEY: header})
    with pytest.raises(ValueError, match=message):
        load_model(str(tmp_path / "a"))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.float8_e4m3fn, torch.bool])
def test_only_floating_point_values_are_read(dtype: torch.dtype, file: Path) -> None:
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        header = opened.metadata()
    tensors["encoder.norm.weight"] = tensors["encoder.norm.weight"].to(dtype)
    save_file(tensors, file, metadata=header)
    with pytest.raises(ValueError, match=r"encoder\.norm\.weight has type \w+ instead of floating"):
        load_model(str(file))


def test_the_layout_is_no_part_of_the_encoder(file: Path, model: MaskedPatchModel) -> None:
    assert load_model(str(file), layout="release").config == replace(CONFIG, layout="release")
    checkpoints.initialize(MaskedPatchModel(replace(CONFIG, layout="release")), str(file))
    with pytest.raises(ValueError, match="layout='rows'"):
        load_model(str(file), layout="rows")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "error"),
    [("nowhere.safetensors", FileNotFoundError), ("axlstm_huge", FileNotFoundError)],
)
def test_unknown_weights_list_what_can_be_passed(spec: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"axlstm_tiny.*hf://"):
        load_model(spec)


@pytest.mark.parametrize("name", ["model.safetensors.sha256", "manifest.json"])
def test_a_known_checksum_is_verified(name: str, file: Path) -> None:
    def write(digest: str) -> None:
        entry = {"file": file.name, "sha256": digest}
        text = json.dumps({"weights": {"a": entry}}) if name == "manifest.json" else digest
        (file.parent / name).write_text(text, "utf-8")

    write(hashlib.sha256(file.read_bytes()).hexdigest())
    load_model(str(file))
    write("0" * 64)
    with pytest.raises(ValueError, match=r"model\.safetensors does not match its checksum"):
        load_model(str(file.parent))


def test_what_knows_no_checksum(file: Path) -> None:
    for text in ("[]", "no JSON", '{"weights": {"a": {"file": "b"}}}', '{"weights": 1}'):
        (file.parent / "manifest.json").write_text(text, "utf-8")  # another program's
        load_model(str(file))
    (file.parent / "model.safetensors.sha256").write_text("not a digest", "utf-8")
    with pytest.raises(ValueError, match="sha256 does not contain a sha256 digest"):
        load_model(str(file))


def test_shipped_weights_match_their_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = checkpoints.manifest()
    assert shipped["default"] in shipped["weights"]
    seen = []
    monkeypatch.setattr(checksum, "sha256", lambda path: seen.append(path.name) or "0" * 64)
    for name, entry in shipped["weights"].items():
        with pytest.raises(ValueError, match="checksum"):
            load_model(name)
        assert seen.pop() == entry["file"]
