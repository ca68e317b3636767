"""The first twenty losses of a tiny training, as they were: no change of the mathematics is silent.

The log-mel is made up: that of audio differs in the last digits from processor to processor, and
packs round it to float16. `python -m tests.training.test_golden` writes the file anew, after a
change that is meant.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hear_axlstm.audio.mel import frame_count
from hear_axlstm.config import MelConfig, ModelConfig
from hear_axlstm.data import extract
from hear_axlstm.pretrain.run import pretrain
from hear_axlstm.training.logging import read_log
from tests.helpers.runs import CONFIG, write_tones

FILE = Path(__file__).with_name("golden_losses.json")
STEPS = 20
MARGIN = 50  # between the spread of three orders of summation and the bound
GOLDEN = replace(
    CONFIG,
    model=ModelConfig(dim=32, depth=2, flip=True),  # both directions
    epochs=STEPS * CONFIG.batch_size / 57,
    warmup_epochs=0.5,
    clip_norm=1.0,
    log_every=1,
)


def write_pack(folder: Path) -> Path:
    """A pack of 60 clips whose log-mel is exact in float16."""
    numbers = itertools.count()

    def stripes(
        waveforms: NDArray[np.float32], mel: MelConfig, device: torch.device
    ) -> NDArray[np.float16]:
        number, frames = next(numbers), frame_count(waveforms.shape[1], mel)
        slanted = np.arange(frames)[:, None] // 4 + (1 + number % 5) * np.arange(mel.n_mels)
        return ((slanted + 3 * number) % 16 / 4).astype(np.float16)[None]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract, "_log_mel", stripes)
        return write_tones(folder)


def losses(data: Path, run: Path, micro_batch: int) -> list[float]:
    pretrain(replace(GOLDEN, micro_batch=micro_batch), data, run)
    return [line["loss"] for line in read_log(run / "log.jsonl") if "loss" in line]


def test_the_losses_are_the_golden_ones(tmp_path: Path) -> None:
    golden = json.loads(FILE.read_text("utf-8"))
    assert losses(write_pack(tmp_path), tmp_path / "run", 8) == pytest.approx(
        golden["losses"], rel=golden["tolerance"]
    )


def write() -> None:
    """Record the losses, and how far they depend on the order in which float32 is summed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_pack(folder)
        runs = [losses(data, folder / f"run-{size}", size) for size in (8, 3, 1)]
    spread = max(max(step) / min(step) - 1 for step in zip(*runs, strict=True))
    golden = {"losses": runs[0], "tolerance": MARGIN * spread}
    FILE.write_text(json.dumps(golden, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    write()
