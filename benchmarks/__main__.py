"""`python -m benchmarks`: speed of embedding, training and the cell on this machine."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import tyro
from tqdm import tqdm

from benchmarks.reference import plain_parallel
from hear_axlstm import get_scene_embeddings, load_model, mlstm
from hear_axlstm.config import PRESETS, preset
from hear_axlstm.masking import random_mask
from hear_axlstm.pretrain.device import choose_device, keep_freed_memory
from hear_axlstm.reconstruction import ReconstructionModel

CLIP_SECONDS = 10
Work = Callable[[], object]


def main(presets: tuple[str, ...] = tuple(PRESETS), rounds: int = 5, device: str = "auto") -> None:
    """Measure and print Markdown tables.

    Args:
        presets: Presets to measure.
        rounds: Repetitions; the tables show medians.
        device: "auto", or a torch device.
    """
    where = choose_device(device)
    keep_freed_memory()
    print(f"{_machine(where)}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| preset | embedding, x real time | training float32, clips/s | bfloat16, clips/s |")
    print("|---|---|---|---|")
    for name in tqdm(presets, leave=False):
        cells = (
            CLIP_SECONDS / _seconds(_embedding(name, where), rounds, where),
            *(4 / _seconds(_training(name, t, where), rounds, where) for t in PRECISIONS),
        )
        tqdm.write(f"| {name} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")
    print("\nCell alone, forward and backward, against the plain form in turns:")
    for size in (144, 288, 576):
        ours, plain = _cell(mlstm.parallel, size, where), _cell(plain_parallel, size, where)
        ratios = [_once(plain, where) / _once(ours, where) for _ in range(rounds)]
        print(f"head size {size}: {statistics.median(ratios):.1f}x")


PRECISIONS = (torch.float32, torch.bfloat16)


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def _embedding(name: str, device: torch.device) -> Work:
    model = load_model(name, pretrained=False).to(device)
    audio = torch.randn(1, CLIP_SECONDS * model.sample_rate, device=device) * 0.1
    return lambda: get_scene_embeddings(audio, model)


def _training(name: str, precision: torch.dtype, device: torch.device) -> Work:
    model = ReconstructionModel(preset(name)).to(device)
    mel = torch.randn(4, 200, 80, device=device)
    mask = random_mask(4, 250, 0.5).to(device)

    def step() -> None:
        with _autocast(precision, device):
            loss = model(mel, mask)
        loss.backward()
        model.zero_grad()

    return step


def _autocast(precision: torch.dtype, device: torch.device) -> AbstractContextManager:
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


def _cell(form: Callable[..., torch.Tensor], size: int, device: torch.device) -> Work:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(4, 251, 4, size, generator=generator).to(device).requires_grad_()
        for _ in range(3)
    )
    raw_i, raw_f = (torch.randn(4, 251, 4, generator=generator).to(device) for _ in range(2))
    log_i, log_f = mlstm.log_gates(raw_i, raw_f, "exponential")
    return lambda: form(q, k, v, log_i, log_f).sum().backward()


def _seconds(work: Work, rounds: int, device: torch.device) -> float:
    work()
    return statistics.median(_once(work, device) for _ in range(rounds))


def _once(work: Work, device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    tyro.cli(main)
