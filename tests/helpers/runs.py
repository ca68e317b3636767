"""Small pretraining runs: their settings, how to compare them, and how to run them in processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch.distributed import TCPStore

from hear_axlstm import checkpoints
from hear_axlstm.config import ModelConfig
from hear_axlstm.data.dataset import CropDataset
from hear_axlstm.data.pack import pack
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.training.logging import read_log

MODEL = ModelConfig(dim=32, depth=1)
CONFIG = PretrainConfig(
    model=MODEL,
    epochs=4,
    warmup_epochs=1,
    batch_size=8,
    lr=3e-3,
    device="cpu",
    precision="float32",
    threads=1,  # in every process the same: the order of sums depends on it
    log_every=3,
    checkpoint_every=4,
)  # of 60 clips 57 are trained on: 28 steps
MEASURED = ("samples_per_second", "data_wait", "memory_gb")

Step = dict[str, float]


def write_tones(folder: Path) -> Path:
    """A pack of 60 steady chords, all in the lower quarter of the mel bins."""
    rng = np.random.default_rng(0)
    seconds = np.arange(16_000 * 2.5) / 16_000
    for number in range(60):
        chord = sum(np.sin(2 * np.pi * rng.uniform(100, 800) * seconds) for _ in range(3))
        soundfile.write(folder / f"{number}.wav", 0.2 * chord, 16_000)
    pack(folder, folder / "pack", workers=1)
    return folder / "pack"


def curve(run: Path) -> list[Step]:
    """The log without what depends on the machine."""
    lines = read_log(run / "log.jsonl")
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in lines]


def same_weights(one: Path, other: Path) -> bool:
    tensors, others = (checkpoints.read(run / checkpoints.FILE_NAME)[2] for run in (one, other))
    return all(torch.equal(tensors[name], others[name]) for name in tensors | others)


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> None:
    """Send this process a signal while it makes the batch of a step."""
    make = CropDataset.batch

    def batch(self: CropDataset, at: int, *rank: int) -> torch.Tensor:
        if at == step and self.batch_size == CONFIG.batch_size:
            signal.raise_signal(number)
        return make(self, at, *rank)

    monkeypatch.setattr(CropDataset, "batch", batch)


def start_process(target: Callable[..., Any], *args: object, **environ: str) -> BaseProcess:
    """Run a function in a process of its own, which torch has been imported into already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hear_axlstm.pretrain.run"])
    process = context.Process(target=_call, args=(target, args, environ))
    process.start()
    return process


def run_ranks(size: int, target: Callable[..., Any], *args: object) -> None:
    """Run a function on as many ranks as torchrun would, around a store that outlives them."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    processes = [
        start_process(target, *args, RANK=str(rank), LOCAL_RANK=str(rank), **common)
        for rank in range(size)
    ]
    for process in processes:
        process.join(300)
        assert not process.is_alive(), "a rank hangs"


def _call(target: Callable[..., Any], args: tuple[object, ...], environ: dict[str, str]) -> None:
    os.environ.update(environ)
    torch.set_num_threads(1)
    target(*args)
