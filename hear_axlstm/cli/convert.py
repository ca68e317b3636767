"""`axlstm convert`: a checkpoint of the reference release into a file of this package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import tyro

from hear_axlstm import checkpoints
from hear_axlstm.checkpoints.reference_release import is_release, read_release
from hear_axlstm.config import Layout
from hear_axlstm.models.pretraining import MaskedPatchModel


def convert(
    checkpoint: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    *,
    flip: bool = True,
    layout: Layout = "release",
) -> None:
    """Convert a checkpoint of the reference release to safetensors; nothing in it is executed.

    Args:
        checkpoint: A .pth file, or the run's folder, whose latest checkpoint is taken.
        out: File to write, ending in .safetensors.
        flip: Every second mLSTM block reads the tokens backwards, as the release does; the file
            itself doesn't tell.
        layout: Rows of the embeddings: as the release computes them, which its published scores
            were made with, or by time step.
    """
    path = checkpoints.locate(str(checkpoint))
    if not is_release(path):
        raise ValueError(f"{path} is no PyTorch checkpoint: pass a .pth file, or the run's folder")
    if out.suffix != ".safetensors":
        raise ValueError(f"{out} would not be found again: let its name end in .safetensors")
    config, training, tensors = read_release(path, flip)
    model = MaskedPatchModel(replace(config, layout=layout))
    checkpoints.fill(model, tensors, path)
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.save(out, model, training, torch.float32)
    print(f"weights: {out}\nnext: load_model({str(out)!r}) in Python, or axlstm info {out}")
