"""`axlstm embed`: audio files into files of embeddings."""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

from hear_axlstm.embed.bulk.embed import Kind
from hear_axlstm.embed.bulk.embed import embed as embed_inputs
from hear_axlstm.ops.precision import Precision
from hear_axlstm.training.signals import is_under_torchrun

SOME_FAILED = 3


def embed(
    inputs: tyro.conf.Positional[tuple[str, ...]],
    *,
    out: Path,
    model: str = "",
    kind: Kind = "scene",
    precision: Precision = "float32",
    batch_seconds: float = 300.0,
    device: str = "auto",
) -> None:
    """Embed audio of any rate and number of channels.

    The same command goes on where it was interrupted, and does nothing where nothing has changed.
    Files that are broken, or longer than an hour (list spans of them in a CSV), are told in a
    report.csv, and the exit code is then 3 (0 under torchrun, which would start again). Several
    processes, one a GPU: `torchrun --nproc-per-node 8 -m -- hear_axlstm.cli embed ...`.

    Args:
        inputs: Files, folders, patterns such as '**/*.flac', a .csv or .tsv with the column path,
            optionally start and end in seconds, WebDataset tars, or - for paths on standard input,
            one a line.
        out: scenes.npy (with scenes.npy.ids.txt), .npz or .parquet, or a folder that gets one .npy
            a clip.
        model: As in load_model: a preset, a file, a folder or hf://org/repo; by default the weights
            that ship.
        kind: One embedding a clip, one each 40 ms, or both.
        precision: Of the large matrix products; "auto" takes bfloat16 where that is fast.
        batch_seconds: Audio that is held and embedded at once.
        device: "auto", or a torch device.
    """
    report = embed_inputs(inputs, out, model, kind, precision, batch_seconds, device)
    if report is None:
        return
    print(report)
    if report.skipped and not is_under_torchrun():
        sys.exit(SOME_FAILED)
