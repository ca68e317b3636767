"""Conversion of checkpoints of the reference release to our settings and tensor names.

``<run>/checkpoints/checkpoint-<epoch>.pth`` contains the state dict of its pretraining model, the
optimizer's state and the arguments of the run; only the first is used. Widths, depth, patch and
window follow from the shapes. Flips don't show there; the release always has them.

Shapes: D model width, E inner width, N patches of a window.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hear_axlstm.checkpoints.authors.safe_load import ZIP_START, load
from hear_axlstm.checkpoints.shapes import expected_shapes
from hear_axlstm.config import MelConfig, ModelConfig
from hear_axlstm.models.patch_embed import sincos_positions

log = logging.getLogger(__name__)

LEGACY_START = b"\x80"  # a bare pickle
HEAD_SIZE = 64  # channels of an attention head of the release's SSAST, in all sizes
WRAPPERS = ("_orig_mod.", "module.", "_orig_mod.")
POSITION_TOLERANCE = 1e-3  # of positions stored in half precision

# The release's names and ours. Names in a block follow "blocks.N." and "encoder.blocks.N.".
NAMES = {
    "cls_token": "encoder.cls_token",
    "mask_token": "mask_token",
    **{f"patch_embed.proj.{p}": f"encoder.patches.projection.{p}" for p in ("weight", "bias")},
    **{f"encoder_norm.{p}": f"encoder.norm.{p}" for p in ("weight", "bias")},
    **{f"pred.{i}.{p}": f"head.{i}.{p}" for i in (0, 2) for p in ("weight", "bias")},
}
MLSTM_NAMES = {
    "norm.weight": "norm.weight",
    "layer.learnable_skip": "skip",
    "layer.proj_up.weight": "up.weight",
    "layer.proj_down.weight": "down.weight",
    **{f"layer.{x}_proj.weight": f"{x}.weight" for x in "qkv"},
    "layer.mlstm_cell.outnorm.weight": "head_norm.weight",
    **{
        f"layer.{theirs}.{p}": f"{ours}.{p}"
        for theirs, ours in (
            ("conv1d.conv", "conv"),
            ("mlstm_cell.igate", "input_gate_map"),
            ("mlstm_cell.fgate", "forget_gate_map"),
        )
        for p in ("weight", "bias")
    },
}
TRANSFORMER_NAMES = {
    f"{theirs}.{p}": f"{ours}.{p}"
    for theirs, ours in (
        ("norm1", "norm1"),
        ("attn.qkv_layer", "qkv"),
        ("attn.proj_layer", "projection"),
        ("norm2", "norm2"),
        ("mlp.layer1", "mlp.0"),
        ("mlp.layer2", "mlp.2"),
    )
    for p in ("weight", "bias")
}


def is_release(path: Path) -> bool:
    """Whether a file is a PyTorch checkpoint, by its first bytes.

    Raises:
        ValueError: for one in the format before PyTorch 1.6, which can't be read safely.
    """
    with path.open("rb") as file:
        start = file.read(len(ZIP_START))
    if start.startswith(LEGACY_START) and path.suffix != ".safetensors":
        raise ValueError(
            f"{path} is in PyTorch's format from before 1.6, which is not read here: if you trust "
            "it, save its contents again with a newer PyTorch"
        )
    return start == ZIP_START


def read_release(
    path: Path, flip: bool | None = None
) -> tuple[ModelConfig, dict[str, Any], dict[str, Tensor]]:
    """Read a checkpoint of the release; nothing in it is executed.

    Args:
        path: the checkpoint.
        flip: whether every second mLSTM block processes the tokens in reverse. By default this is
            assumed, with a warning.

    Returns:
        Settings with ``layout="release"``, facts about the training, and tensors.

    Raises:
        ValueError: if it is damaged or of another model; the message names the tensor.
    """
    contents = _items(load(path))
    theirs = _without_wrappers(_items(contents.get("model")))
    if not theirs:
        raise ValueError(
            f"{path} contains no tensors under 'model': pass a checkpoint as the release's "
            "pretraining writes it, a dictionary whose 'model' is the state dict"
        )
    _check_tensors(theirs, path)
    try:
        config = _settings(theirs, flip is not False)
        tensors = _translate(theirs, config)
    except KeyError as error:
        raise ValueError(f"{path} has no tensor {error}: it belongs to another model") from None
    except (ValueError, TypeError, IndexError, RuntimeError, ZeroDivisionError) as error:
        raise ValueError(f"{path} belongs to another model: {error}") from None
    if flip is None and config.architecture == "axlstm":
        log.warning(
            "%s: assuming that every second block is flipped, as in the release; otherwise use "
            "`axlstm convert --no-flip`",
            path,
        )
    epoch = contents.get("epoch")
    training = {"source": "reference release", "epoch": epoch if type(epoch) is int else None}
    return config, training, tensors


def _items(contents: Any) -> dict[Any, Any]:
    """A dictionary's items, since the pickle may have replaced methods of an `OrderedDict`."""
    return dict(dict.items(contents)) if isinstance(contents, dict) else {}


def _without_wrappers(tensors: dict[Any, Any]) -> dict[Any, Any]:
    """Names without the prefixes that DistributedDataParallel and torch.compile add."""
    for prefix in WRAPPERS:
        if tensors and all(str(name).startswith(prefix) for name in tensors):
            tensors = {str(n).removeprefix(prefix): tensor for n, tensor in tensors.items()}
    return tensors


def _check_tensors(theirs: Mapping[Any, Any], path: Path) -> None:
    """Reject anything but finite floating-point tensors that fit in the file.

    Views can share values, so a tensor's size alone may exceed the file's.
    """
    total = 0
    for name, tensor in theirs.items():
        is_tensor = isinstance(name, str) and isinstance(tensor, Tensor)
        if not (is_tensor and tensor.is_floating_point() and tensor.numel()):
            raise ValueError(
                f"{path}: {name!r} is not a tensor of floating-point values: pass a checkpoint of "
                "the release's pretraining"
            )
        total += tensor.numel() * tensor.element_size()
    if total > path.stat().st_size:
        raise ValueError(f"{path}: its tensors exceed the file: download it again")
    if broken := [name for name, tensor in theirs.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{path}: {broken[0]} contains NaN or infinite values: download it again")


def _settings(theirs: Mapping[str, Tensor], flip: bool) -> ModelConfig:
    dim, _, frames, bins = theirs["patch_embed.proj.weight"].shape
    is_axlstm = "blocks.0.layer.proj_up.weight" in theirs
    widths: dict[str, Any]
    if is_axlstm:
        inner = len(theirs["blocks.0.layer.learnable_skip"])
        heads = len(theirs["blocks.0.layer.mlstm_cell.igate.weight"])
        widths = {"expansion": inner // dim, "heads": heads, "flip": flip}
    else:
        hidden = len(theirs["blocks.0.mlp.layer1.weight"])
        widths = {"mlp_ratio": hidden // dim, "heads": dim // HEAD_SIZE}
    patches = theirs["pos_embed"].shape[1] - 1
    return ModelConfig(
        architecture="axlstm" if is_axlstm else "ssast",
        dim=dim,
        depth=len({name.split(".")[1] for name in theirs if name.startswith("blocks.")}),
        patch=(frames, bins),
        window_frames=patches * bins // MelConfig().n_mels * frames,
        loss_on="all",
        layout="release",
        **widths,
    )


def _translate(theirs: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Convert to our names and layouts; each shape is checked against the settings."""
    in_block = MLSTM_NAMES if config.architecture == "axlstm" else TRANSFORMER_NAMES
    names = NAMES | {
        f"blocks.{n}.{their}": f"encoder.blocks.{n}.{our}"
        for n in range(config.depth)
        for their, our in in_block.items()
    }
    if unknown := sorted(theirs.keys() - names.keys() - {"pos_embed"}):
        raise ValueError(f"it has an unknown tensor {unknown[0]!r}")
    wanted = expected_shapes(config)
    tensors = {}
    for their, our in names.items():
        tensor = _rearrange(their, theirs[their].detach())
        if tensor.shape != wanted[our]:
            shapes = tuple(theirs[their].shape), wanted[our]
            raise ValueError("{} has shape {}, which does not convert to {}".format(their, *shapes))
        memory = torch.empty(tensor.shape, dtype=torch.float32, device="cpu")
        tensors[our] = memory.copy_(tensor)  # from the file
    _check_positions(theirs["pos_embed"], config)
    return tensors


def _check_positions(found: Tensor, config: ModelConfig) -> None:
    shape = (1, 1 + math.prod(config.grid), config.dim)
    if found.shape == shape:
        expected = sincos_positions(config.grid, config.dim)
        if ((found[0, 1:].float() - expected).abs() <= POSITION_TOLERANCE).all():
            return
    raise ValueError("pos_embed differs from the release's positions")


def _rearrange(name: str, tensor: Tensor) -> Tensor:
    if name in ("cls_token", "mask_token"):
        return tensor.flatten()
    if name == "patch_embed.proj.weight":
        return tensor.flatten(1)  # [D, 1, frames, bins] to [D, p]
    if name.endswith("conv1d.conv.weight"):
        return tensor.flatten(1).mT  # [E, 1, taps] to [taps, E]
    return tensor
