"""`axlstm embed`: compute embeddings of audio files."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import tyro

from hear_axlstm import load_model
from hear_axlstm.cli import SOME_FAILED
from hear_axlstm.config import Pooling
from hear_axlstm.embed.files import Stored, embed_files
from hear_axlstm.ops.precision import Precision
from hear_axlstm.options import POOLINGS, option
from hear_axlstm.training.distributed import init_distributed
from hear_axlstm.training.signals import is_under_torchrun

PATIENCE = timedelta(days=30)  # ranks wait for the slowest one at the end


def embed(
    inputs: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(name="source", metavar="SOURCE...", help_behavior_hint=""),
    ],
    *,
    out: Path,
    model: Annotated[str, option("WEIGHTS")] = "",
    kind: Stored = "scene",
    path_column: Annotated[str | None, option("COLUMN")] = None,
    precision: Precision = "float32",
    pooling: Annotated[Pooling | None, option(POOLINGS)] = None,
    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "auto",
) -> None:
    """Embed audio of any sample rate and number of channels.

    Run the same command again to resume an interrupted run, or to include files that were added or
    fixed; a run with different options needs a different output. Files that are broken, silent,
    shorter than 25 ms, or longer than an hour (split these with start/end columns in a CSV) are
    listed in OUT.report.csv (report.csv in an output folder), and the exit code is 3 (0 under
    torchrun, which would otherwise restart). To run one process per GPU:
    `torchrun --nproc-per-node 8 -m -- hear_axlstm embed ...`.

    Args:
        inputs: Files, folders, patterns such as '**/*.flac', CSV or TSV files with the column path,
            optionally start and end in seconds, WebDataset tars, or - for paths on standard input,
            one per line.
        out: scenes.npy (with scenes.npy.ids.txt), a .parquet file, or a folder for one .npy per
            clip.
        model: Name of weights such as axlstm_base.audioset, file, folder or hf://org/repo (default:
            axlstm_tiny).
        kind: One embedding per clip, one every 40 ms, or both.
        path_column: Column of paths in a CSV (default: a usual name such as path or filename).
        precision: Data type of the large matrix products; "auto" uses bfloat16 where it is faster.
        pooling: One embedding per clip: "mean" over its time steps, or "mean_std", mean and
            standard deviation, twice as wide (default: as recorded in the weights, usually mean).
        device: "auto" (CUDA if available, then Apple's MPS, then the CPU), or e.g. "cuda:1".
    """
    with init_distributed(device, patience=PATIENCE) as context:
        embedder = load_model(model, precision=precision, pooling=pooling)
        report = embed_files(
            inputs,
            out,
            embedder.to(context.device),
            kind,
            path_column=path_column,
            context=context,
        )
    if report is None:
        return
    print(report)
    if report.skipped and not is_under_torchrun():
        sys.exit(SOME_FAILED)
