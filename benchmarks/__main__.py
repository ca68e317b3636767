"""`python -m benchmarks`: embedding, training and the cell compared with a plain implementation.

Every figure is a median over rounds that alternate between the implementations. The plain one is
`tests.reference.mlstm`: float32, with materialized S x S matrices, one 2 s window after another, by
ordinary autograd. The other modules of this package have their own commands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import tyro
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as nnf
from tqdm import tqdm

from benchmarks.tables import show
from benchmarks.timing import Work, in_turns, machine, product_rate
from hear_axlstm import get_scene_embeddings, load_model
from hear_axlstm.config import PRESETS, preset
from hear_axlstm.models import mlstm
from hear_axlstm.models.patch_embed import random_mask
from hear_axlstm.models.pretraining import MaskedPatchModel, training_flops
from hear_axlstm.ops.precision import Precision, product_dtype
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.pretrain.step import make_train_step
from hear_axlstm.training.device import choose_device, keep_freed_memory
from hear_axlstm.training.distributed import DistContext
from hear_axlstm.training.optimizer import adamw, parameter_groups
from tests.reference.mlstm import plain, plain_parallel, plain_timestamps

CLIP_SECONDS = 10
LENGTHS = (251, 1001, 4001)  # tokens
HEAD_SIZES = (144, 288, 576)
Form = Callable[..., Tensor]
PRECISIONS: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}


def main(
    presets: tuple[str, ...] = tuple(PRESETS),
    clips: int = 8,
    batch: int = 16,
    rounds: int = 5,
    device: str = "auto",
) -> None:
    """Measure and print Markdown tables.

    Args:
        presets: Presets to measure.
        clips: Number of clips of 10 s embedded at once.
        batch: Clips per training step.
        rounds: Repetitions; the tables show medians.
        device: "auto", or a torch device.
    """
    where = choose_device(device)
    if where.type == "cpu":
        keep_freed_memory()  # the plain implementation gains most from it
    fast = product_dtype("auto", where)  # bfloat16 is emulated, very slowly, by some processors
    peaks = {
        name: product_rate(dtype, where)
        for name, dtype in PRECISIONS.items()
        if dtype in (torch.float32, fast)
    }
    by_torch = product_rate(torch.float32, where, by_torch=True)
    rates = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in peaks.items())
    print(
        f"{machine(where)}\nproducts, GFLOP/s: {rates} (torch's own float32: {by_torch / 1e9:.0f})"
    )

    show(
        f"Embedding {clips} clips of 10 s, x real time (speedup over plain; share of the peak):",
        ("preset", "plain", *peaks, "cosine per step", "per scene"),
        (_embedding(name, clips, rounds, where, peaks) for name in tqdm(presets, leave=False)),
    )
    show(
        f"Training steps of {batch} clips, clips/s (speedup over plain; share of the peak):",
        ("preset", "plain", *peaks, "kept for backward, MB per clip (plain)"),
        (_training(name, batch, rounds, where, peaks) for name in tqdm(presets, leave=False)),
    )
    torch.set_num_threads(1)  # as the cell runs in both, with one window per core
    show(
        "The cell alone, 4 windows of 251 tokens, one thread, speedup over the plain form:",
        ("head size", "forward", "forward and backward"),
        (_cell(size, rounds, where) for size in HEAD_SIZES),
    )
    show(
        "chunkwise against quadratic, one window, one thread, time of forward and backward:",
        ("head size", *(f"{tokens} tokens" for tokens in LENGTHS)),
        (_lengths(size, rounds, where) for size in HEAD_SIZES),
    )


def _embedding(
    name: str, clips: int, rounds: int, device: torch.device, peaks: dict[Precision, float]
) -> list[str]:
    model = load_model(f"{name}.random").to(device)
    twin = plain(model)
    audio = 0.1 * torch.randn(clips, CLIP_SECONDS * model.sample_rate, device=device)

    models = {p: load_model(f"{name}.random", precision=p).to(device) for p in peaks}
    for fused in models.values() if device.type == "cpu" else ():
        fused.fuse()

    def embed(precision: Precision) -> Tensor:
        return get_scene_embeddings(audio, models[precision])

    with torch.no_grad():
        works: dict[str, Work] = {"plain": lambda: plain_timestamps(twin, audio)}
        works |= {p: lambda p=p: embed(p) for p in peaks}  # type: ignore[misc]
        seconds = in_turns(works, rounds, device)
        exact = plain_timestamps(twin, audio)
        low = torch.stack(models[[*peaks][-1]].encode_steps(audio))
    flops = training_flops(model.config) / 3 * clips * CLIP_SECONDS / 2  # a third is forward
    cells = _compared(seconds, clips * CLIP_SECONDS, flops, peaks)
    steps = nnf.cosine_similarity(low, exact, dim=-1).mean()
    scenes = nnf.cosine_similarity(low.mean(1), exact.mean(1), dim=-1).mean()
    return [name, *cells, f"{steps:.5f}", f"{scenes:.5f}"]


def _training(
    name: str, batch: int, rounds: int, device: torch.device, peaks: dict[Precision, float]
) -> list[str]:
    model = MaskedPatchModel(preset(name)).to(device)
    twin = plain(model)
    config = PretrainConfig(model=model.config, batch_size=batch, device=str(device))
    mel = torch.randn(batch, 200, 80, device=device)
    mask = random_mask(batch, model.config.grid[0] * model.config.grid[1], 0.5).to(device)
    optimizer = adamw(
        parameter_groups(twin.named_parameters(), config.peak_lr, config.weight_decay)
    )

    def plain_step() -> None:
        twin(mel, mask).backward()
        optimizer.step()
        optimizer.zero_grad()

    def step(precision: Precision) -> Work:
        train_step = make_train_step(
            model, replace(config, precision=precision), DistContext(device)
        )
        return lambda: train_step.step((mel, mask), 0, lambda peak: 1e-6)

    works: dict[str, Work] = {"plain": plain_step}
    seconds = in_turns(works | {p: step(p) for p in peaks}, rounds, device)
    flops = training_flops(model.config) * batch
    cells = _compared(seconds, batch, flops, peaks)
    ours, plains = (_kept(net, mel[:4], mask[:4]) / 4e6 for net in (model, twin))
    return [name, *cells, f"{ours:.0f} ({plains:.0f})"]


def _cell(size: int, rounds: int, device: torch.device) -> list[str]:
    inputs = _cell_inputs(4, 251, size, device)

    @torch.no_grad()
    def forward(form: Form) -> None:
        form(*inputs)

    works: dict[str, Work] = {
        "plain 1": lambda: forward(plain_parallel),
        "ours 1": lambda: forward(mlstm.quadratic),
        "plain": lambda: _backward(plain_parallel, inputs),
        "ours": lambda: _backward(mlstm.quadratic, inputs),
    }
    s = in_turns(works, rounds, device)
    return [str(size), f"{s['plain 1'] / s['ours 1']:.1f}x", f"{s['plain'] / s['ours']:.1f}x"]


def _lengths(size: int, rounds: int, device: torch.device) -> list[str]:
    ratios = []
    for tokens in LENGTHS:
        inputs = _cell_inputs(1, tokens, size, device)
        works: dict[str, Work] = {
            "quadratic": partial(_backward, mlstm.quadratic, inputs),
            "chunkwise": partial(_backward, lambda *x: mlstm.chunkwise(*x)[0], inputs),
        }
        seconds = in_turns(works, rounds, device)
        ratios.append(seconds["chunkwise"] / seconds["quadratic"])
    return [str(size), *(f"{ratio:.1f}x" for ratio in ratios)]


def _cell_inputs(windows: int, tokens: int, size: int, device: torch.device) -> list[Tensor]:
    """q, k, v, and gates that are biased as in a fresh model."""
    generator = torch.Generator().manual_seed(0)
    shape = (windows, tokens, 4)
    qkv = [torch.randn(*shape, size, generator=generator).to(device) for _ in "qkv"]
    raw = [torch.randn(shape, generator=generator).to(device) for _ in "if"]
    gates = mlstm.log_gates(raw[0], raw[1] + 4.5, "exponential")
    return [*(t.requires_grad_() for t in qkv), *gates]


def _backward(form: Form, inputs: list[Tensor]) -> None:
    torch.autograd.grad(form(*inputs).sum(), inputs[:3])


def _compared(
    seconds: dict[str, float], amount: float, flops: float, peaks: dict[Precision, float]
) -> list[str]:
    """The plain rate; by precision, the rate, its ratio to the plain one and the peak's share."""
    return [
        f"{amount / seconds['plain']:.1f}",
        *(
            f"{amount / seconds[p]:.1f} ({seconds['plain'] / seconds[p]:.1f}x; "
            f"{flops / seconds[p] / peaks[p]:.0%})"
            for p in peaks
        ),
    ]


def _kept(model: nn.Module, *inputs: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass in float32, parameters aside."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(*inputs)
    del loss
    return sum(storages.values())


if __name__ == "__main__":
    tyro.cli(main)
