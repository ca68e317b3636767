"""Checks of the Triton kernels on this GPU: errors, the self-check, learning curves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.sizes import Sizes
from hear_axlstm.models.patch_embed import random_mask
from hear_axlstm.models.pretraining import MaskedPatchModel
from hear_axlstm.ops import triton_impl
from hear_axlstm.ops.backends import backend, triton_agrees
from hear_axlstm.ops.precision import Precision
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.pretrain.step import make_train_step
from hear_axlstm.training.distributed import DistContext
from tests.reference import cell

CURVE_PRESET = "axlstm_tiny"
# Largest errors relative to the largest value: three TF32 products stand for one of float32; in
# bfloat16 weighted scores and h are rounded once each.
BOUNDS = {"float32": 1e-4, "bfloat16": 2e-2}


def kernel_errors(sizes: Sizes, head_size: int, precision: str) -> dict[str, Any]:
    """Errors of h and of all gradients against the definition in float64."""
    leaves = cell.inputs(
        (*sizes.kernel, head_size), dtype=getattr(torch, precision), device=sizes.device
    )
    errors = cell.errors(leaves, triton_impl.quadratic_cell)
    largest, bound = cell.largest(errors.values()), BOUNDS[precision]
    return {"errors": errors, "largest": largest, "bound": bound, "passed": largest < bound}


def self_check(sizes: Sizes) -> dict[str, Any]:
    """The check by which `auto` decides, and the backend that it chooses."""
    agrees = triton_agrees(sizes.device)
    return {"passed": agrees, "chosen": backend(sizes.device)}


def curve(sizes: Sizes, precision: Precision) -> dict[str, Any]:
    """Losses of the first steps of training on noisy versions of one spectrum."""
    torch.manual_seed(0)
    device = torch.device(sizes.device)
    config = sizes.presets[CURVE_PRESET]
    model = MaskedPatchModel(config).to(device)
    run = PretrainConfig(
        model=config, batch_size=sizes.curve_batch, lr=1e-3, precision=precision, device=str(device)
    )
    step = make_train_step(model, run, DistContext(device))
    losses = []
    for number in range(sizes.curve_steps):
        step.step(_batch(sizes, number), number, lambda peak: peak)
        losses.append(step.take_metrics()["loss"])
    return {"losses": losses}


def _batch(sizes: Sizes, number: int) -> tuple[Tensor, Tensor]:
    """A batch that is equal on every device."""
    config, rows = sizes.presets[CURVE_PRESET], sizes.curve_batch
    bands = torch.linspace(0, 9, config.mel.n_mels).sin()
    noise = torch.randn(
        rows,
        config.window_frames,
        config.mel.n_mels,
        generator=torch.Generator().manual_seed(number),
    )
    torch.manual_seed(number)
    mask = random_mask(rows, config.grid[0] * config.grid[1], config.mask_ratio)
    return (bands + 0.3 * noise).to(sizes.device), mask.to(sizes.device)
