"""`axlstm pack`: convert audio to log-mel shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from hear_axlstm.data.estimate import estimate_pack
from hear_axlstm.data.pack import pack as pack_audio
from hear_axlstm.options import option


def pack(
    audio: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="source", metavar="SOURCE")],
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="out", metavar="OUT")],
    *,
    path_column: Annotated[str | None, option("COLUMN")] = None,
    workers: Annotated[int | None, option("N")] = None,
    dry_run: bool = False,
) -> None:
    """Pack audio into log-mel shards for pretraining.

    Files that are broken, silent, shorter than 25 ms, or longer than an hour (split these with
    start/end columns in a CSV) are left out and listed in the pack's report.csv.

    Args:
        audio: Folder, searched with all its subfolders; a .csv or .tsv with the column path,
            optionally start and end in seconds; a pattern such as 'a/**/*.flac'; or WebDataset
            tars, as paths or URLs, e.g. 'train-{000..127}.tar'.
        out: Output folder; packing the same audio into it again resumes or does nothing.
        path_column: Column of paths in a CSV (default: a usual name such as path or filename).
        workers: Number of processes (default: one per CPU).
        dry_run: Only estimate hours, disk space and time from a small sample.
    """
    if dry_run:
        print(estimate_pack(audio, out, workers=workers, path_column=path_column))
        return
    report = pack_audio(audio, out, workers=workers, path_column=path_column)
    print(f"next: axlstm pretrain {out} --run runs/my-run")
    print(report)
