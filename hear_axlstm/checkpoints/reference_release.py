"""Checkpoints of the reference release, as settings and tensors under our names.

``<run>/checkpoints/checkpoint-<epoch>.pth`` holds the state dict of its pretraining model beside
the optimizer's state and the arguments of the run; only the first is read. Widths, depth, patch and
window are read off the shapes. Flips leave no trace there; the release always has them.

Shapes: D model width, E inner width, N patches of a window.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hear_axlstm.checkpoints.unpickle import ZIP_START, Checkpoint, View
from hear_axlstm.config import MelConfig, ModelConfig
from hear_axlstm.models.patch_embed import sincos_positions
from hear_axlstm.models.pretraining import MaskedPatchModel

log = logging.getLogger(__name__)

LEGACY_START = b"\x80"  # a bare pickle
HEAD_SIZE = 64  # channels of an attention head of the release's SSAST, in all sizes
POSITION_TOLERANCE = 1e-3  # of positions stored in half precision

# The release's names and ours. A block's follow "blocks.N." and "encoder.blocks.N.".
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
            "it, torch.save what torch.load gives, with a newer PyTorch"
        )
    return start == ZIP_START


def read_release(
    path: Path, flip: bool | None = None
) -> tuple[ModelConfig, dict[str, Any], dict[str, Tensor]]:
    """Read a checkpoint of the release; nothing in it is executed.

    Args:
        path: of the checkpoint.
        flip: whether every second mLSTM block reads backwards; by default so, with a warning.

    Returns:
        Settings with ``layout="release"``, what is known of the training, and tensors.

    Raises:
        ValueError: if it is damaged or holds another model; the message names the tensor.
    """
    with Checkpoint(path) as checkpoint:
        contents = checkpoint.contents if isinstance(checkpoint.contents, dict) else {}
        views = contents.get("model")
        if not isinstance(views, dict) or not all(
            isinstance(name, str) and isinstance(view, View) for name, view in views.items()
        ):
            raise ValueError(
                f"{path} holds no tensors under 'model': pass a checkpoint of the release's "
                "pretraining"
            )
        theirs = checkpoint.tensors(views)
    try:
        config = _settings(theirs, flip is not False)
        tensors = _translate(theirs, config)
    except KeyError as error:
        raise ValueError(f"{path} has no tensor {error}: it is of another model") from None
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"{path} is of another model: {error}") from None
    if flip is None and config.architecture == "axlstm":
        log.warning(
            "%s: taken to flip every second block, as the release does; if it doesn't, "
            "use `axlstm convert --no-flip`",
            path,
        )
    epoch = contents.get("epoch")
    training = {"source": "reference release", "epoch": epoch if type(epoch) is int else None}
    return config, training, tensors


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
    """Their tensors under our names, once each has the shape that the settings ask for."""
    in_block = MLSTM_NAMES if config.architecture == "axlstm" else TRANSFORMER_NAMES
    names = NAMES | {
        f"blocks.{n}.{their}": f"encoder.blocks.{n}.{our}"
        for n in range(config.depth)
        for their, our in in_block.items()
    }
    if unknown := sorted(theirs.keys() - names.keys() - {"pos_embed"}):
        raise ValueError(f"it has an unknown tensor {unknown[0]!r}")
    with torch.device("meta"):
        wanted = MaskedPatchModel(config).state_dict()
    tensors = {}
    for their, our in names.items():
        tensor = _rearrange(their, theirs[their])
        if tensor.shape != wanted[our].shape:
            shapes = tuple(theirs[their].shape), tuple(wanted[our].shape)
            raise ValueError("{} has shape {}, which gives no {}".format(their, *shapes))
        tensors[our] = tensor
    positions = sincos_positions(config.grid, config.dim)
    found = theirs["pos_embed"][0, 1:]
    if found.shape != positions.shape or (found - positions).abs().max() > POSITION_TOLERANCE:
        raise ValueError("pos_embed holds other positions than the release's")
    return tensors


def _rearrange(name: str, tensor: Tensor) -> Tensor:
    if name in ("cls_token", "mask_token"):
        return tensor.flatten()
    if name == "patch_embed.proj.weight":
        return tensor.flatten(1)  # [D, 1, frames, bins] to [D, p]
    if name.endswith("conv1d.conv.weight"):
        return tensor.flatten(1).mT.contiguous()  # [E, 1, taps] to [taps, E]
    return tensor
