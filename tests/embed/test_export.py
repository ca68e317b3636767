"""Exported graphs against the model itself."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hear_axlstm import get_scene_embeddings, get_timestamp_embeddings, load_model
from hear_axlstm.config import PRESETS, MelConfig, ModelConfig
from hear_axlstm.embed import export as module
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.embed.export import ExportableEmbedder, export
from hear_axlstm.embed.inputs import Kind

SMALL = ModelConfig(dim=32, depth=2)
SMALLEST = ModelConfig(dim=16, depth=1)  # tracing takes seconds a block
needs_onnx = pytest.mark.skipif(find_spec("onnxruntime") is None, reason="needs extra `export`")
SIZES = ((1, 400), (1, 16_000), (2, 32_000), (3, 50_001))


def embeddings(model: Embedder, audio: Tensor, kind: Kind) -> tuple[Tensor, ...]:
    if kind == "scene":
        return (get_scene_embeddings(audio, model),)
    return get_timestamp_embeddings(audio, model)


def seeded(config: ModelConfig) -> Embedder:
    torch.manual_seed(0)
    return Embedder(config).eval()


def clips(clips: int, samples: int) -> Tensor:
    return torch.randn(clips, samples, generator=torch.Generator().manual_seed(samples)) * 0.1


def check_onnx(model: Embedder, path: Path, kind: Kind) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size in SIZES:
        audio = clips(*size)
        expected = embeddings(model, audio, kind)
        for found, right in zip(session.run(None, {"audio": audio.numpy()}), expected, strict=True):
            np.testing.assert_allclose(found, right.numpy(), rtol=1e-4, atol=1e-4)


VARIANTS = [
    SMALL,
    replace(SMALL, flip=True),
    replace(SMALL, architecture="ssast"),
    replace(SMALL, layout="release"),
    replace(SMALL, pooling="mean_std"),
    replace(SMALL, patch=(8, 16)),
    replace(SMALL, mel=MelConfig(hop_length=161)),
]
NAMES = ["axlstm", "flip", "ssast", "release", "deviation", "wide", "odd-hop"]


@pytest.mark.parametrize("kind", ["scene", "timestamp"])
@pytest.mark.parametrize("config", VARIANTS, ids=NAMES)
def test_the_plain_operations_compute_the_same(config: ModelConfig, kind: Kind) -> None:
    model = seeded(config)
    plain = ExportableEmbedder(model, kind).eval()
    for size in (*SIZES, (1, 559), (1, 560), (1, 600), (1, 241), (1, 242), (2, 885), (2, 886)):
        audio = clips(*size)
        with torch.no_grad():
            found = plain(audio)
        found = (found,) if kind == "scene" else found
        torch.testing.assert_close(found, embeddings(model, audio, kind), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_on_a_gpu_is_exported_from_a_copy() -> None:
    model, audio = seeded(SMALLEST), clips(1, 16_000)
    with torch.no_grad():
        found = ExportableEmbedder(model.to("cuda"), "scene").eval()(audio)
    assert model.device.type == model.mel.window.device.type == "cuda"
    torch.testing.assert_close(found, get_scene_embeddings(audio, model.cpu()), rtol=0, atol=1e-4)


def test_older_versions_of_torch_export_get_no_newer_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def older(mod, args, kwargs=None, *, dynamic_shapes=None, strict=True):
        return strict

    monkeypatch.setattr(torch.export, "export", older)
    monkeypatch.setattr(module, "_config", object())
    assert module._trace(torch.nn.Identity()) is False


@needs_onnx
@pytest.mark.parametrize(
    "kind", ["scene", pytest.param("timestamp", marks=pytest.mark.slow, id="timestamp")]
)
def test_onnx_takes_any_batch_and_length(kind: Kind, tmp_path: Path) -> None:
    model = seeded(replace(SMALLEST, patch=(8, 16)))  # its first step may be past the end
    check_onnx(model, export(model, tmp_path / "model.onnx", kind), kind)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("config", ["shipped", "flip", "ssast_tiny"])
def test_onnx_of_whole_models(config: str, tmp_path: Path) -> None:
    flip = replace(PRESETS["axlstm_tiny"], flip=True, expansion=2, input_gate="sigmoid")
    model = {
        "shipped": load_model,
        "flip": lambda: seeded(flip),
        "ssast_tiny": lambda: seeded(PRESETS["ssast_tiny"]),
    }[config]()
    check_onnx(model, export(model, tmp_path / "model.onnx"), "scene")


@pytest.mark.slow
def test_programs_of_torch_export_load_again(tmp_path: Path) -> None:
    model = seeded(SMALLEST)
    program = torch.export.load(export(model, tmp_path / "model.pt2")).module()
    for size in SIZES:
        audio = clips(*size)
        expected = get_scene_embeddings(audio, model)
        torch.testing.assert_close(program(audio), expected, rtol=1e-4, atol=1e-4)


def test_mistakes_are_named(tmp_path: Path) -> None:
    model = seeded(SMALL)
    with pytest.raises(ValueError, match=r"must end in \.onnx or \.pt2"):
        export(model, tmp_path / "model.tflite")
    with pytest.raises(ValueError, match="kind='window': use one of scene, timestamp"):
        export(model, tmp_path / "model.onnx", "window")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="does not exist"):
        export(model, tmp_path / "nowhere" / "model.onnx")
    (tmp_path / "model.pt2").mkdir()
    with pytest.raises(ValueError, match=r"model\.pt2 is a directory"):
        export(model, tmp_path / "model.pt2")


@needs_onnx
def test_a_file_is_replaced_by_a_whole_one_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hear_axlstm.embed.export._trace", interrupt)
    (tmp_path / "model.onnx").write_text("earlier", "utf-8")
    with pytest.raises(KeyboardInterrupt):
        export(seeded(SMALLEST), tmp_path / "model.onnx")
    assert [path.read_text("utf-8") for path in tmp_path.iterdir()] == ["earlier"]
    name = f"{'x' * 240}.pt2"  # in place of a folder without permission
    with pytest.raises(OSError, match=rf"{name}'$"):  # not the name of the temporary file
        export(seeded(SMALLEST), tmp_path / name)
