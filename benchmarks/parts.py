"""Share of each part in the time of a training step, forward and backward.

`python -m benchmarks` prints it: shares of the CPU time as PyTorch's profiler counts it,
in one thread, of one micro-batch in float32. Needs the compiled library.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.profiler import profile, record_function

from hear_axlstm.config import preset
from hear_axlstm.models.patch_embed import random_mask
from hear_axlstm.models.pretraining import MaskedPatchModel
from hear_axlstm.ops import cpu_mixer
from hear_axlstm.ops.backends import backend

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "mkldnn::_linear_pointwise")
KERNELS = {  # of each part, without "_backward"
    "convolution, maps, gates": "before_cell",
    "cell": "weighted_sum",
    "head norm, skip, output gate": "after_cell",
}
PARTS = ("projections", *KERNELS, "rest")


def parts(name: str, clips: int = 4, rounds: int = 3) -> dict[str, tuple[float, float]]:
    """Shares of a step in the forward and the backward pass, by part; empty without the library."""
    if backend("cpu") != "cpu":
        return {}
    config = preset(name)
    model = MaskedPatchModel(config)
    patches = config.grid[0] * config.grid[1]
    mel = torch.randn(clips, config.window_frames, config.mel.n_mels)
    given = mel, random_mask(clips, patches, 0.5)
    passes: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for turn in range(rounds + 1):
        with _profiled(passes[0] if turn else Counter()):
            loss = model(*given)
        with _profiled(passes[1] if turn else Counter()):
            torch.autograd.grad(loss, list(model.parameters()))
    total = sum(sum(times.values()) for times in passes)
    return {part: (passes[0][part] / total, passes[1][part] / total) for part in PARTS}


@contextmanager
def _profiled(times: Counter[str]) -> Iterator[None]:
    """Add the CPU time within the context to its parts, in microseconds."""
    call = cpu_mixer.call

    def recorded(name: str, *arguments: Any) -> None:
        with record_function(f"kernel {name}"):
            call(name, *arguments)

    with mock.patch.object(cpu_mixer, "call", recorded), profile() as profiler:
        yield
    for event in profiler.key_averages():
        times[_part_of(event.key)] += event.self_cpu_time_total


def _part_of(event: str) -> str:
    for part, kernel in KERNELS.items():
        if event.removesuffix("_backward") == f"kernel {kernel}":
            return part
    return "projections" if event in PRODUCTS else "rest"
