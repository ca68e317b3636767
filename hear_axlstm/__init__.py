"""hear_axlstm: general-purpose audio embeddings from an xLSTM, behind the HEAR API.

    model = load_model()
    scene = get_scene_embeddings(audio, model)         # [clips, 960]
    steps, ms = get_timestamp_embeddings(audio, model)  # [clips, steps, 960], [clips, steps]

The API follows HEAR 2021 (https://hearbenchmark.com/hear-api.html); the model is that of
"AxLSTMs: learning self-supervised audio representations with xLSTMs".
"""

from __future__ import annotations

import importlib
import os
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from hear_axlstm.config import Layout, Pooling
    from hear_axlstm.embed.embedder import Embedder
    from hear_axlstm.ops.precision import Precision

__version__ = version("hear_axlstm")

# Public names defined elsewhere are imported on first use, so that settings and the command
# line's help don't load PyTorch.
_LAZY = {
    "AudioError": "hear_axlstm.audio.errors",
    "Classifier": "hear_axlstm.finetune.classifier",
    "Embedder": "hear_axlstm.embed.embedder",
    "load_classifier": "hear_axlstm.finetune.classifier",
}

__all__ = [
    "AudioError",
    "Classifier",
    "Embedder",
    "__version__",
    "get_scene_embeddings",
    "get_timestamp_embeddings",
    "load_classifier",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__


def load_model(
    model_file_path: str | os.PathLike[str] = "",
    *,
    seed: int = 0,
    precision: Precision = "float32",
    layout: Layout | None = None,
    pooling: Pooling | None = None,
) -> Embedder:
    """Load an embedding model on the CPU, ready for inference.

    Args:
        model_file_path: name of the weights: ``""`` for the default; a preset (``axlstm_tiny``,
            ``ssast_tiny``) for the weights that ship with the package; or ``PRESET.TAG``, such as
            ``axlstm_base.audioset`` for the authors' weights, downloaded when first used, or
            ``axlstm_base.random`` for random ones, a baseline. Or a safetensors file, a folder
            that contains ``model.safetensors``, ``hf://org/repo[@revision][/file]``, or a ``.pth``
            checkpoint or run of the reference release. Known checksums are verified.
        seed: seed of random weights.
        precision: data type of the large matrix products: "float32"; "bfloat16", faster on some
            hardware, with small differences (benchmarks/RESULTS.md); "auto": bfloat16 where it is
            faster (measured on CPUs), else float32. Embeddings are always float32.
        layout: layout of an embedding's rows: "time", the patches of one time step; "release", rows
            that mix time steps, as in the reference release. The default is recorded in the file:
            "release" if it was converted from that release, else "time".
        pooling: scene embedding: "mean" over the time steps, as in the paper; "mean_std", mean and
            standard deviation side by side, twice as wide and better on many tasks
            (docs/results.md). The default is recorded in the file, usually "mean".

    Returns:
        A module in eval mode with fused weights (`Embedder.fuse`); move it with ``.to(device)``,
        train it after ``.train()``.

    Raises:
        ValueError: for a preset without shipped weights, an unknown option, or a file that is
            damaged, does not match its checksum, or contains a different model.
        FileNotFoundError: for an unknown name or a missing file, or one that is not in the cache
            when offline.
        OSError: if a download fails or the cache can't be written. `ConnectionError` and
            `PermissionError` are special cases.
    """
    import torch

    from hear_axlstm import checkpoints
    from hear_axlstm.ops.precision import product_dtype

    product_dtype(precision, torch.device("cpu"))  # raises if unknown
    model = checkpoints.load_embedder(
        os.fspath(model_file_path), seed=seed, layout=layout, pooling=pooling
    )
    model.precision = precision
    return model.infer()


def get_timestamp_embeddings(audio: Tensor, model: Embedder) -> tuple[Tensor, Tensor]:
    """Embeddings of consecutive 40 ms steps, for event tasks.

    Args:
        audio: float ``[clips, samples]`` in -1..1 at ``model.sample_rate``, on the model's device.
        model: from `load_model`.

    Returns:
        float32 ``[clips, steps, model.timestamp_embedding_size]``, and the steps' centers in ms,
        float32 ``[clips, steps]``, both on the audio's device.

    Raises:
        TypeError, ValueError: for audio of the wrong type or shape, or with non-finite samples.
    """
    import torch

    if not callable(model):
        raise _not_a_model(model)
    with torch.no_grad():
        return model(audio)


def get_scene_embeddings(audio: Tensor, model: Embedder) -> Tensor:
    """One embedding per clip: the mean over its time steps, or as `load_model` was asked to pool.

    Args:
        audio: float ``[clips, samples]`` in -1..1 at ``model.sample_rate``, on the model's device.
        model: from `load_model`.

    Returns:
        float32 ``[clips, model.scene_embedding_size]`` on the audio's device.

    Raises:
        TypeError, ValueError: for audio of the wrong type or shape, or with non-finite samples.
    """
    import torch

    if not hasattr(model, "scene"):
        raise _not_a_model(model)
    with torch.no_grad():
        return model.scene(audio)


def _not_a_model(model: object) -> TypeError:
    return TypeError(
        f"model is {type(model).__name__}: pass the audio first, then what load_model returns"
    )
