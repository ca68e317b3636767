"""`axlstm pack`: audio into log-mel shards."""

from __future__ import annotations

from pathlib import Path

import tyro

from hear_axlstm.data.estimate import estimate as forecast
from hear_axlstm.data.pack import pack as pack_audio


def pack(
    audio: tyro.conf.Positional[str],
    out: tyro.conf.Positional[Path],
    *,
    workers: int | None = None,
    dry_run: bool = False,
) -> None:
    """Pack audio into log-mel shards for pretraining.

    Files that are broken, silent, or longer than an hour (list spans of them in a CSV) are left out
    and told in the pack's report.csv.

    Args:
        audio: Folder that is searched for audio files, all below it included; or a .csv or .tsv
            with the column path, optionally start and end in seconds; or WebDataset tars, paths or
            URLs, e.g. 'train-{000..127}.tar'.
        out: Folder to write; packing the same audio into it again resumes or does nothing.
        workers: Processes, by default one a core.
        dry_run: Only tell the hours, disk and time that it will take, from a small sample.
    """
    if dry_run:
        print(forecast(audio, out, workers=workers))
        return
    print(pack_audio(audio, out, workers=workers))
    print(f"next: axlstm pretrain {out} --run runs/my-run")
