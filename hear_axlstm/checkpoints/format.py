"""Weight files: safetensors with the settings in the header, and training checkpoints.

The header contains the `ModelConfig` and facts about the training. It is compared with the names
and shapes in the file before memory is allocated for any tensor.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hear_axlstm.checkpoints.authors.reference_release import is_release, read_release
from hear_axlstm.checkpoints.shapes import Shape, expected_shapes
from hear_axlstm.checkpoints.unfinished import (
    WEIGHTS,
    is_training_checkpoint,
    training_settings,
    training_weights,
)
from hear_axlstm.config import ModelConfig
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.files import DISK_FULL, replacing
from hear_axlstm.models.pretraining import MaskedPatchModel
from hear_axlstm.wording import listed

FILE_NAME = "model.safetensors"
HEADER_KEY = "hear_axlstm"
FORMAT = 1
NAMED_KEYS = 3  # tensors that an error names
REASON = 300  # characters of a reason that an error quotes
ENCODER = "encoder."  # prefix of the tensors that every file has
FLOATS = ("F64", "F32", "F16", "BF16")

Contents = tuple[ModelConfig, dict[str, Any], dict[str, Tensor]]


def save(
    path: Path,
    model: MaskedPatchModel | Embedder,
    training: Mapping[str, Any],
    dtype: torch.dtype,
) -> None:
    """Write a model with its settings; `path` is replaced atomically.

    Args:
        path: the safetensors file to write.
        model: the model, on any device.
        training: JSON-ready facts about its training: corpus, epochs, steps, ...
        dtype: data type of the stored tensors: float32 to continue training, float16 to ship.

    Raises:
        ValueError: for NaN or infinite values, including overflow in `dtype`.
        OSError: if it can't be written, for example for lack of space.
    """
    tensors = {k: t.detach().to("cpu", dtype).contiguous() for k, t in model.state_dict().items()}
    save_tensors(path, model.config, training, tensors)


def save_tensors(
    path: Path, config: ModelConfig, training: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write tensors with their settings; see `save`."""
    header = {"format": FORMAT, "model": config.to_dict(), "training": dict(training)}
    _check_finite(tensors, path)
    try:
        with replacing(path) as partial, _system_errors():
            save_file(dict(tensors), partial, metadata={HEADER_KEY: json.dumps(header)})
    except (SafetensorError, OSError) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"can't write {path} ({reason}): free some space, or choose another folder"
        ) from error


@contextmanager
def _system_errors() -> Iterator[None]:
    """Convert safetensors errors that name an operating system error to that error."""
    try:
        yield
    except SafetensorError as error:
        if code := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
        raise


def read(path: Path) -> Contents:
    """Read a file that `save` wrote, or a checkpoint of pretraining or the reference release.

    Returns:
        The model's settings, facts about its training, and its tensors in float32. The tensors of
        the encoder have the names and shapes that follow from the settings.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if it is damaged, its tensors don't fit its settings, or it has another format.
    """
    if is_release(_existing(path)):
        return read_release(path)
    with _opened(path) as file:
        config, training, prefix = _settings(file, path)
        _check_header(file, prefix, config, path)
        if prefix:
            return config, training, training_weights(path)
        return config, training, {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118


def read_settings(path: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """Read the model's settings and the facts about its training, without the tensors.

    Raises:
        FileNotFoundError, ValueError: as `read` does.
    """
    if is_release(_existing(path)):
        return read_release(path)[:2]
    with _opened(path) as file:
        return _settings(file, path)[:2]


def stored_dtype(path: Path) -> torch.dtype:
    """Data type of the weights in a safetensors file."""
    with _opened(path) as file:
        return file.get_tensor(next(name for name in file.keys() if ENCODER in name)).dtype  # noqa: SIM118


def check(path: Path) -> None:
    """Check a safetensors file without reading its tensors.

    Raises:
        FileNotFoundError, ValueError: as `read` does, except for damaged values.
    """
    with _opened(_existing(path)) as file:
        config, _, prefix = _settings(file, path)
        _check_header(file, prefix, config, path)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {path}: pass a .safetensors file, or a folder that contains one"
        )
    return path


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a valid safetensors file ({error}): download it again"
        ) from None


def _settings(file: Any, path: Path) -> tuple[ModelConfig, dict[str, Any], str]:
    """The model's settings, facts about its training, and the prefix of its tensors' names."""
    header = file.metadata() or {}
    if is_training_checkpoint(header):
        return *training_settings(header, path), WEIGHTS
    return *_parse(header.get(HEADER_KEY), path), ""


def _parse(header: str | None, path: Path) -> tuple[ModelConfig, dict[str, Any]]:
    if header is None:
        raise ValueError(f"{path} has no {HEADER_KEY!r} header: this package did not write it")
    try:
        facts = json.loads(header)
        if facts["format"] != FORMAT:
            raise ValueError(f"it has format {facts['format']}, but this version reads {FORMAT}")
        return ModelConfig.from_dict(facts["model"]), dict(facts["training"])
    except KeyError as error:
        raise ValueError(f"the header of {path} lacks {error}: download the file again") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"the header of {path} can't be used ({str(error)[:REASON]}): update the package, or "
            "download the file again"
        ) from None


def _check_header(file: Any, prefix: str, config: ModelConfig, path: Path) -> None:
    """Compare the encoder of the settings with the tensors in the file."""
    names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
    listed = {name.removeprefix(prefix): file.get_slice(name) for name in names}
    for name, tensor in listed.items():
        if tensor.get_dtype() not in FLOATS:
            raise ValueError(
                f"{path}: {name} has type {tensor.get_dtype()} instead of floating-point values: "
                "pass weights that this package wrote"
            )
    wanted = {k: shape for k, shape in expected_shapes(config).items() if k.startswith(ENCODER)}
    found = {k: tuple(t.get_shape()) for k, t in listed.items() if k.startswith(ENCODER)}
    _check_fit(wanted, found, path)


def _check_fit(wanted: Mapping[str, Shape], found: Mapping[str, Shape], path: Path) -> None:
    wrong = [f"{name} is missing" for name in wanted if name not in found]
    wrong += [f"{name} is unknown" for name in found if name not in wanted]
    wrong += [
        f"{name} has shape {found[name]} instead of {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if wrong:
        named = listed(wrong, NAMED_KEYS, "; ")
        raise ValueError(f"the tensors in {path} do not fit its settings: {named}")


def fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors into a module that was built from their settings.

    Raises:
        ValueError: if tensors are missing, unexpected, of the wrong shape or not finite; the
            message names them.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    _check_fit(wanted, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, path)
    _check_finite(tensors, path)
    module.load_state_dict(dict(tensors))


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(
                f"{path}: {name} contains NaN or infinite values: download it again, or train "
                "with a lower learning rate"
            )
