"""The model and the optimizer step of pretraining: loss, optimizers and micro-batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from hear_axlstm.data.dataset import share
from hear_axlstm.models.encoder import block_type
from hear_axlstm.models.pretraining import MaskedPatchModel
from hear_axlstm.ops.backends import backend
from hear_axlstm.ops.precision import product_dtype
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.training.average import WeightAverage
from hear_axlstm.training.distributed import DistContext
from hear_axlstm.training.optimizer import adamw, muon, parameter_groups
from hear_axlstm.training.step import TrainStep

CPU_CHANNELS = 4608  # inner width times clips; more exceeds the cache, less costs more calls
SMALLEST_MATRIX = 16  # minimum rows and columns for Muon; gates and convolutions have fewer


def make_model(config: PretrainConfig, device: torch.device) -> MaskedPatchModel:
    """Make the model of a pretraining run, with random weights."""
    model = MaskedPatchModel(config.model).to(device)
    model.encoder.checkpoint_blocks = config.checkpoint_blocks
    return model


def make_train_step(model: nn.Module, config: PretrainConfig, context: DistContext) -> TrainStep:
    """Make the optimizer step of a pretraining run.

    Args:
        model: maps log-mel ``[rows, W, F]`` and mask ``[rows, N]`` to the mean loss of the rows;
            each row masks the same number of patches. Identical on all ranks.
        config: settings of the run.
        context: the ranks that train together.
    """
    device = context.device
    rows = share(config.batch, context.rank, context.size)
    own = rows.stop - rows.start
    if config.micro_batch is None:
        width = block_type(config.model).inner_dim(config.model)
        micro_batch = _choose_micro_batch(own, width, device)
    else:
        micro_batch = min(config.micro_batch, own)
    return TrainStep(
        model,
        _compiled(model, device) if config.compile else model,
        make_optimizers(model, config),
        context,
        batch_size=config.batch,
        micro_batch=micro_batch,
        workers=torch.get_num_threads() if device.type == "cpu" else 1,
        precision=product_dtype(config.precision, device),
        clip_norm=config.clip_norm,
        average=None if config.ema is None else WeightAverage(model, config.ema),
        halve_on_oom=config.micro_batch is None,
    )


def _compiled(model: nn.Module, device: torch.device) -> Callable[..., torch.Tensor]:
    backend(device)  # chosen now: there is no choice while a graph is traced
    return torch.compile(model)


def make_optimizers(model: nn.Module, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    """Make AdamW, or Muon for the matrices of the blocks and AdamW for the rest."""
    peak, decay = config.peak_lr, config.weight_decay
    named = list(model.named_parameters())
    if config.optimizer == "adamw":
        return [adamw(parameter_groups(named, peak, decay), config.betas)]
    matrices = [(name, p) for name, p in named if _is_block_matrix(name, p)]
    others = [(name, p) for name, p in named if not _is_block_matrix(name, p)]
    return [
        adamw(parameter_groups(others, peak, decay), config.betas),
        muon(parameter_groups(matrices, peak, decay)),
    ]


def _choose_micro_batch(clips: int, width: int, device: torch.device) -> int:
    """Number of `clips` to process at once: few on a CPU, all on an accelerator.

    Args:
        clips: rows of this rank's batch.
        width: inner width of the model.
        device: device of the model.
    """
    if device.type != "cpu":
        return clips
    per_thread = -(-clips // torch.get_num_threads())  # each processes its own micro-batches
    return max(1, min(CPU_CHANNELS // width, per_thread))


def _is_block_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a full matrix inside the blocks, as Muon is meant for."""
    return (
        ".blocks." in f".{name}" and parameter.ndim == 2 and min(parameter.shape) >= SMALLEST_MATRIX
    )
