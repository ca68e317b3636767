"""Fetching of one task, from its archive's URL to its folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from hearbench.download import NotThereError, download, verify
from hearbench.tasks.fetch.archives import Archive
from hearbench.tasks.fetch.convert import convert


def fetch_task(
    archive: Archive, folder: Path, rates: Sequence[int], workers: int, keep: bool = False
) -> None:
    """Make the folder of one official task; an interrupted call resumes where it stopped.

    Args:
        archive: an archive from `find_archives`.
        folder: folder of HEAR task folders; the task's own appears there when it is complete.
        rates: sample rates to provide, in Hz.
        workers: number of threads.
        keep: whether to keep the archive.

    Raises:
        FetchError: if it can't be downloaded, or is invalid.
    """
    archive.path.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.path.with_name(archive.task.folder + ".partial")
    if not archive.path.is_file():
        _download(archive)
        shutil.rmtree(partial, ignore_errors=True)  # left by another download
    if archive.checksum:
        verify(archive.path, archive.checksum)
    convert(archive.path, archive.task, partial, rates, workers)
    partial.rename(folder / archive.task.folder)
    if not keep:
        archive.path.unlink()


def _download(archive: Archive) -> None:
    refusals = ["no mirror lists it"]
    for url in archive.urls:
        try:
            return download(url, archive.path, archive.size)
        except NotThereError as error:
            refusals.append(str(error))
    raise NotThereError(
        f"{archive.path.name} could not be downloaded ({refusals[-1]}): pass --url with a mirror "
        f"that has it, or put the file into {archive.path.parent}"
    )
