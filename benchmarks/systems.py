"""`python -m benchmarks.systems`: speed of embedding with each system of Table 2.

All weights are random, in the official layout and at full size: speed does not depend on them. Each
system embeds the same clips, at its own sample rate, by the HEAR API alone.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

import hear_axlstm
from benchmarks.tables import show
from benchmarks.timing import machine
from hearbench.systems import huggingface
from tests.helpers import system_checkpoints as write

Loaded = tuple[Any, Callable[[Tensor], Tensor]]
"""A model, and the function that computes its scene embeddings."""


def adapter(name: str, writer: Callable[[Path], Path]) -> Loaded:
    """A model of `hearbench.systems.<name>`."""
    module = import_module(f"hearbench.systems.{name}")
    with tempfile.TemporaryDirectory() as folder:
        model = module.load_model(str(writer(Path(folder))))
    return model, lambda audio: module.get_scene_embeddings(audio, model)


def axlstm(preset: str) -> Loaded:
    """A preset of this package, as returned by `load_model`."""
    model = hear_axlstm.load_model(f"{preset}.random")
    return model, lambda audio: hear_axlstm.get_scene_embeddings(audio, model)


def hubert_large() -> Loaded:
    """HuBERT large; wav2vec 2.0 and WavLM large cost about as much."""
    from transformers import HubertConfig, HubertModel

    config = HubertConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )
    model = huggingface.SpeechModel(HubertModel(config), 16_000, normalize=True).eval()
    return model, lambda audio: huggingface.get_scene_embeddings(audio, model)


SYSTEMS: dict[str, Callable[[], Loaded]] = {
    "PaSST-Base": partial(adapter, "passt", partial(write.passt, dim=768, depth=12)),
    "HuBERT-large": hubert_large,
    "BEATs-iter3": partial(
        adapter, "beats", partial(write.beats, dim=768, depth=12, patch_dim=512)
    ),
    "AudioMAE": partial(adapter, "audiomae", partial(write.audiomae, dim=768, depth=12)),
    "MWMAE-Tiny": partial(adapter, "mwmae", partial(write.mwmae, dim=192, depth=12)),
    "MWMAE-Base": partial(adapter, "mwmae", partial(write.mwmae, dim=768, depth=12)),
    "SSAM-Tiny": partial(adapter, "ssam", partial(write.ssam, dim=192, depth=12)),
    "SSAM-Small": partial(adapter, "ssam", partial(write.ssam, dim=384, depth=12)),
    "SSAM-Base": partial(adapter, "ssam", partial(write.ssam, dim=768, depth=12)),
    "SSAST": partial(adapter, "ssast", partial(write.ssast, dim=768, depth=12)),
    "SSAST-T": partial(axlstm, "ssast_tiny"),
    "SSAST-S": partial(axlstm, "ssast_small"),
    "SSAST-B": partial(axlstm, "ssast_base"),
    "AxLSTM-T": partial(axlstm, "axlstm_tiny"),
    "AxLSTM-S": partial(axlstm, "axlstm_small"),
    "AxLSTM-B": partial(axlstm, "axlstm_base"),
}


def main(
    systems: tuple[str, ...] = (), seconds: float = 10.0, clips: int = 8, rounds: int = 3
) -> None:
    """Embed clips with each system and print a Markdown table.

    CPU time counts all threads together; it varies less than wall-clock time when something else
    is running.

    Args:
        systems: Rows; by default all.
        seconds: Length of a clip.
        clips: Clips in one call.
        rounds: Number of timed calls, after a warm-up; the table shows medians.
    """
    if unknown := sorted(set(systems) - set(SYSTEMS)):
        raise SystemExit(f"unknown system {unknown[0]!r}: choose from {', '.join(SYSTEMS)}")
    show(
        f"{machine(torch.device('cpu'))}; {clips} clips of {seconds:g} s per call:",
        ("system", "parameters", "embedding", "x real time", "CPU seconds per minute of audio"),
        (_row(name, seconds, clips, rounds) for name in systems or SYSTEMS),
    )


def _row(name: str, seconds: float, clips: int, rounds: int) -> list[str]:
    model, scenes = SYSTEMS[name]()
    with torch.no_grad():
        audio = 0.1 * torch.randn(clips, int(seconds * model.sample_rate))
        scenes(audio)
        times = [_timed(partial(scenes, audio)) for _ in range(rounds)]
    wall, busy = (statistics.median(column) for column in zip(*times, strict=True))
    millions, total = sum(p.numel() for p in model.parameters()) / 1e6, clips * seconds
    sizes = [f"{millions:.1f} M", f"{model.scene_embedding_size:,}"]
    return [name, *sizes, f"{total / wall:.1f}", f"{60 * busy / total:.2f}"]


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and CPU seconds."""
    wall, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - busy


if __name__ == "__main__":
    tyro.cli(main)
