"""Sizes of the measurements of `benchmarks.gpu`, for a GPU and for a rehearsal on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from hear_axlstm.config import PRESETS, ModelConfig


@dataclass(frozen=True)
class Sizes:
    device: str
    presets: Mapping[str, ModelConfig]
    kernel: tuple[int, int, int]
    """Windows, tokens and heads of the cell that is checked."""
    head_sizes: tuple[int, ...]
    curve_steps: int
    curve_batch: int
    clips: int
    """Clips that are embedded at once."""
    clip_seconds: float
    batch: int
    """Crops of a training step."""
    rounds: int
    compiler: str
    """Backend of torch.compile."""
    seeds: int
    """Seeds of the probes of a task."""
    epochs: int
    """Maximum number of epochs of a probe."""
    task_clips: int
    """Maximum number of clips of a task."""


GPU = Sizes(
    device="cuda",
    presets=PRESETS,
    kernel=(4, 251, 4),
    head_sizes=(144, 288, 576),
    curve_steps=50,
    curve_batch=64,
    clips=240,  # eight full batches: a call holds 300 s of audio at once
    clip_seconds=10.0,
    batch=256,
    rounds=5,
    compiler="inductor",
    seeds=10,
    epochs=30,
    task_clips=1_000_000,
)


REHEARSAL = Sizes(
    device="cpu",
    presets={
        name: replace(config, dim=16, depth=1, heads=1, expansion=1, window_frames=8)
        for name, config in PRESETS.items()
    },
    kernel=(1, 37, 1),
    head_sizes=(24,),  # two tiles, as 144 = 128 + 16
    curve_steps=2,
    curve_batch=2,
    clips=2,
    clip_seconds=0.1,
    batch=2,
    rounds=1,
    compiler="aot_eager",  # traces as inductor does, and compiles nothing
    seeds=2,
    epochs=6,
    task_clips=60,
)
