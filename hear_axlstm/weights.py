"""Weights: where they come from, and how they are read and written.

A file is safetensors and describes itself: its header carries the `ModelConfig` and what the
weights were trained on. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hear_axlstm.config import PRESETS, ModelConfig, preset
from hear_axlstm.embedder import Embedder
from hear_axlstm.reconstruction import ReconstructionModel

log = logging.getLogger(__name__)

FILE_NAME = "model.safetensors"
HEADER_KEY = "hear_axlstm"
FORMAT = 1
OBJECTIVE = ("mask_ratio", "mask_keeps_position", "loss_on")  # settings that no tensor depends on
ENCODER = "encoder."  # what the embedder takes of a pretraining model's tensors


def save(
    path: Path, model: ReconstructionModel, training: Mapping[str, Any], dtype: torch.dtype
) -> None:
    """Write a pretraining model with its settings, replacing `path` at once or not at all.

    Args:
        path: the safetensors file to write.
        model: the model, on any device.
        training: JSON-ready facts about its training: corpus, epochs, steps, ...
        dtype: of the stored tensors: float32 to go on training, float16 to ship.
    """
    header = {"format": FORMAT, "model": model.config.to_dict(), "training": dict(training)}
    tensors = {k: t.detach().to("cpu", dtype).contiguous() for k, t in model.state_dict().items()}
    temporary = path.with_suffix(".partial")
    save_file(tensors, temporary, metadata={HEADER_KEY: json.dumps(header)})
    temporary.chmod(0o644)  # safetensors keeps its files to their owner
    temporary.replace(path)


def read(path: Path) -> tuple[ModelConfig, dict[str, Any], dict[str, Tensor]]:
    """Read a file that `save` wrote.

    Returns:
        The model's settings, the facts about its training, and its tensors in float32.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or not one of ours.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {path}: pass a .safetensors file, or a folder of one"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER_KEY)
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no complete safetensors file ({error}): fetch it again"
        ) from None
    if header is None:
        raise ValueError(f"{path} has no {HEADER_KEY!r} header: it is not a file of this package")
    facts = json.loads(header)
    if facts["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {facts['format']}, this version reads {FORMAT}: update"
        )
    return ModelConfig.from_dict(facts["model"]), facts["training"], tensors


def load_embedder(spec: str, *, pretrained: bool = True, seed: int = 0) -> Embedder:
    """The embedding model that `hear_axlstm.load_model` returns; see there."""
    shipped = manifest()
    name = spec or shipped["default"]
    if pretrained and (name not in PRESETS or name in shipped["weights"]):
        return _embedder_from_file(locate(name))
    if name not in PRESETS:
        raise ValueError(f"pretrained=False needs a preset's name, not {spec!r}")
    if pretrained:
        log.warning(
            "no weights ship for %s: it starts from random ones (seed %d). Pretrain it, or pass "
            "the path of its weights.",
            name,
            seed,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Embedder(preset(name))


def initialize(model: ReconstructionModel, spec: str) -> None:
    """Start a pretraining model from existing weights; only its objective may differ from theirs.

    Raises:
        FileNotFoundError, ValueError: if there are none, or they belong to another encoder.
    """
    path = locate(spec)
    config, _, tensors = read(path)
    objective = {name: getattr(model.config, name) for name in OBJECTIVE}
    if replace(config, **objective) != model.config:
        raise ValueError(
            f"the weights in {path} are of another encoder, {config}: use its settings"
        )
    model.load_state_dict(tensors)


def locate(spec: str) -> Path:
    """The local file behind a preset, a path, a folder or ``hf://org/repo[@revision][/file]``.

    Raises:
        FileNotFoundError, ValueError: if there is none; the message lists what may be passed.
    """
    if spec.startswith("hf://"):
        return _download(spec)
    if spec in (shipped := manifest()["weights"]):
        return _shipped_file(shipped[spec])
    path = Path(spec).expanduser()
    if path.is_dir():
        path = path / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {spec!r}: pass a preset ({', '.join(PRESETS)}), a .safetensors file, "
            f"a folder that holds {FILE_NAME}, or hf://org/repo[@revision]"
        )
    return path


def manifest() -> dict[str, Any]:
    """The weights that ship: ``{"default": name, "weights": {name: {"file", "sha256", ...}}}``."""
    return json.loads(_shipped().joinpath("manifest.json").read_text())


def _shipped() -> Any:
    return resources.files("hear_axlstm_weights")


def _shipped_file(entry: Mapping[str, str]) -> Path:
    with resources.as_file(_shipped() / entry["file"]) as path:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != entry["sha256"]:
            raise ValueError(f"{path} does not match its checksum: install the package again")
        return path


def _download(spec: str) -> Path:
    """Fetch from the Hugging Face hub, or take it from the local cache."""
    address = spec.removeprefix("hf://")
    parts = address.split("/", 2)
    if len(parts) < 2 or not all(parts):
        raise ValueError(f"{spec!r} is incomplete: write hf://org/repo[@revision][/file]")
    repo, _, revision = parts[1].partition("@")
    file = parts[2] if len(parts) == 3 else FILE_NAME
    return Path(hf_hub_download(f"{parts[0]}/{repo}", file, revision=revision or None))


def _embedder_from_file(path: Path) -> Embedder:
    config, _, tensors = read(path)
    embedder = Embedder(config)
    encoder = {k.removeprefix(ENCODER): t for k, t in tensors.items() if k.startswith(ENCODER)}
    try:
        embedder.encoder.load_state_dict(encoder)
    except RuntimeError as error:
        raise ValueError(f"the tensors in {path} do not fit its settings: {error}") from None
    return embedder
