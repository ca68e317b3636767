"""`axlstm convert`: a checkpoint of the reference release to safetensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from hear_axlstm import checkpoints
from hear_axlstm.checkpoints.authors.reference_release import is_release, read_release
from hear_axlstm.checkpoints.format import save_tensors
from hear_axlstm.config import Layout


def convert(
    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")],
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    *,
    flip: bool = True,
    layout: Layout = "release",
) -> None:
    """Convert a checkpoint of the reference release to safetensors; nothing in it is executed.

    For the authors' published checkpoints, `axlstm weights get` does this and more.

    Args:
        checkpoint: A .pth file, or the run's folder, whose latest checkpoint is taken.
        out: File to write, ending in .safetensors.
        flip: Every second mLSTM block processes the tokens in reverse order, as in the release; the
            checkpoint itself does not record it.
        layout: Rows of the embeddings: "release", as used for its published scores, or "time", the
            patches of one time step.
    """
    path = checkpoints.locate(str(checkpoint))
    if not is_release(path):
        raise ValueError(f"{path} is not a PyTorch checkpoint: pass a .pth file or a run's folder")
    if out.suffix != ".safetensors":
        raise ValueError(f"the output must end in .safetensors, got {out}")
    config, training, tensors = read_release(path, flip)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(out, replace(config, layout=layout), training, tensors)
    print(f"weights: {out}\nnext: load_model({str(out)!r}) in Python, or axlstm info {out}")
