"""Rate, share of the peak and memory of embedding and training, by preset and form."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.sizes import Sizes
from benchmarks.timing import Work, in_turns, product_rate
from hear_axlstm import get_scene_embeddings
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.models.patch_embed import random_mask
from hear_axlstm.models.pretraining import MaskedPatchModel, training_flops
from hear_axlstm.ops.backends import backend
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.pretrain.step import make_train_step
from hear_axlstm.training.device import peak_flops
from hear_axlstm.training.distributed import DistContext
from hear_axlstm.training.meter import peak_memory

COMPILED = ("compiled", "Triton, compiled")


def embedding(sizes: Sizes, preset: str, form: str) -> dict[str, Any]:
    """Clips on the device to scene embeddings, products in bfloat16; the rate is x real time."""
    device, config = torch.device(sizes.device), sizes.presets[preset]
    model = Embedder(config).to(device).eval()
    model.precision = "bfloat16"
    _compile(model.encoder.blocks, form, sizes)
    samples = round(sizes.clip_seconds * model.sample_rate)
    audio = 0.1 * torch.randn(sizes.clips, samples, device=device)
    seconds = sizes.clips * sizes.clip_seconds
    windows = seconds / (config.window_frames * config.mel.hop_length / model.sample_rate)
    flops = training_flops(config) / 3 * windows  # a third is forward
    with torch.no_grad():
        return _measured(lambda: get_scene_embeddings(audio, model), seconds, flops, sizes)


def training(sizes: Sizes, preset: str, form: str) -> dict[str, Any]:
    """Whole optimizer steps with products in bfloat16; the rate is crops a second."""
    device, config = torch.device(sizes.device), sizes.presets[preset]
    model = MaskedPatchModel(config).to(device)
    _compile(model.encoder.blocks, form, sizes)
    run = PretrainConfig(
        model=config, batch_size=sizes.batch, precision="bfloat16", device=str(device)
    )
    step = make_train_step(model, run, DistContext(device))
    mel = torch.randn(sizes.batch, config.window_frames, config.mel.n_mels, device=device)
    mask = random_mask(sizes.batch, config.grid[0] * config.grid[1], config.mask_ratio).to(device)
    flops = training_flops(config) * sizes.batch

    def work() -> None:
        step.step((mel, mask), 0, lambda peak: 1e-6)

    result = _measured(work, sizes.batch, flops, sizes)
    return result | {"micro_batch": step.micro_batch}


def _compile(blocks: nn.ModuleList, form: str, sizes: Sizes) -> None:
    """Compile the blocks, which share one graph; the whole model would take minutes."""
    backend(sizes.device)  # chosen now: there is no choice while a graph is traced
    if form in COMPILED:
        torch.compiler.reset()
        for block in blocks:
            block.compile(backend=sizes.compiler)


def _measured(work: Work, amount: float, flops: float, sizes: Sizes) -> dict[str, Any]:
    device = torch.device(sizes.device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = in_turns({"": work}, sizes.rounds, device)[""]
    peak = _peak(device)
    return {
        "backend": backend(device),
        "rate": amount / seconds,
        "mfu": flops / seconds / peak,
        "peak_flops": peak,
        "gigabytes": (peak_memory(device) or 0) / 1e9,  # of the process on a CPU
    }


@functools.cache
def _peak(device: torch.device) -> float:
    """FLOP/s by the data sheet, or measured where the device is unknown."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16  # a CPU may emulate bfloat16
    return peak_flops(device) or product_rate(dtype, device)
