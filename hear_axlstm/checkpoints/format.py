"""Files of weights: safetensors that describe themselves, and the release's checkpoints.

The header of ours carries the `ModelConfig` and what the weights were trained on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hear_axlstm.checkpoints.reference_release import is_release, read_release
from hear_axlstm.config import ModelConfig
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.files import replacing
from hear_axlstm.models.pretraining import MaskedPatchModel

FILE_NAME = "model.safetensors"
HEADER_KEY = "hear_axlstm"
FORMAT = 1
NAMED_KEYS = 3  # so many tensors that don't fit are named

Contents = tuple[ModelConfig, dict[str, Any], dict[str, Tensor]]


def save(
    path: Path,
    model: MaskedPatchModel | Embedder,
    training: Mapping[str, Any],
    dtype: torch.dtype,
) -> None:
    """Write a model with its settings, replacing `path` at once or not at all.

    Args:
        path: the safetensors file to write.
        model: the model, on any device.
        training: JSON-ready facts about its training: corpus, epochs, steps, ...
        dtype: of the stored tensors: float32 to go on training, float16 to ship.

    Raises:
        ValueError: for NaN or infinite values, also by overflow in `dtype`.
        OSError: if it can't be written, e.g. for want of space.
    """
    header = {"format": FORMAT, "model": model.config.to_dict(), "training": dict(training)}
    tensors = {k: t.detach().to("cpu", dtype).contiguous() for k, t in model.state_dict().items()}
    _check_finite(tensors, path)
    write(path, tensors, {HEADER_KEY: json.dumps(header)})


def write(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a safetensors file, replacing `path` at once or not at all.

    Raises:
        OSError: if it can't be written, e.g. for want of space.
    """
    try:
        with replacing(path) as partial:
            save_file(dict(tensors), partial, metadata=dict(header))
            partial.chmod(0o644)  # safetensors keeps its files to their owner
    except (SafetensorError, OSError) as error:
        raise OSError(
            f"can't write {path} ({error}): make room, or choose another folder"
        ) from error


def read(path: Path) -> Contents:
    """Read a file that `save` wrote, or a checkpoint of the reference release.

    Returns:
        The model's settings, the facts about its training, and its tensors in float32.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or neither of the two.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {path}: pass a .safetensors file, or a folder of one"
        )
    if is_release(path):
        return read_release(path)
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
    config, training = _parse(header, path)
    return config, training, tensors


def _parse(header: str, path: Path) -> tuple[ModelConfig, dict[str, Any]]:
    try:
        facts = json.loads(header)
        if facts["format"] != FORMAT:
            raise ValueError(f"it has format {facts['format']}, this version reads {FORMAT}")
        return ModelConfig.from_dict(facts["model"]), dict(facts["training"])
    except KeyError as error:
        raise ValueError(f"the header of {path} lacks {error}: fetch the file again") from None
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"the header of {path} can't be used ({error}): update the package, or fetch the file "
            "again"
        ) from None


def fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors into a module that was built by the settings beside them.

    Raises:
        ValueError: naming the tensors of `path` that are missing, superfluous or of another shape,
            or the first that holds NaN or infinite values.
    """
    wanted = module.state_dict()
    wrong = [f"{name} is missing" for name in wanted if name not in tensors]
    wrong += [f"{name} is unknown" for name in tensors if name not in wanted]
    wrong += [
        f"{name} has shape {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if wrong:
        more = f" and {len(wrong) - NAMED_KEYS} more" if len(wrong) > NAMED_KEYS else ""
        raise ValueError(
            f"the tensors in {path} do not fit its settings: {'; '.join(wrong[:NAMED_KEYS])}{more}"
        )
    _check_finite(tensors, path)
    module.load_state_dict(dict(tensors))


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(
                f"{path}: {name} holds NaN or infinite values: fetch it again, or train with a "
                "lower rate"
            )
