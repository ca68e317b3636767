"""Fetching of one task, from its archive's URL to its folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from hearbench.download import FetchError, NotThereError, download, mismatch
from hearbench.tasks.fetch.archives import Archive, Source
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
        keep: whether to keep the archive; one that was put there by hand is always kept.

    Raises:
        FetchError: if it can't be downloaded, or is invalid.
    """
    archive.path.parent.mkdir(parents=True, exist_ok=True)
    downloaded = archive.path.with_name(f"{archive.path.name}.downloaded")  # also by earlier calls
    if archive.path.is_file():
        _check(archive)
    else:
        _download(archive, downloaded)
    source = archive.partial.with_name(f"{archive.partial.name}.source")  # what it is made from
    if not source.is_file() or source.read_text("utf-8") != _identity(archive.path):
        shutil.rmtree(archive.partial, ignore_errors=True)
        source.write_text(_identity(archive.path), "utf-8")
    convert(archive.path, archive.task, archive.partial, rates, workers)
    archive.partial.rename(folder / archive.task.folder)
    source.unlink()
    if downloaded.is_file():
        if not keep and downloaded.read_text("utf-8") == _identity(archive.path):
            archive.path.unlink()
        downloaded.unlink()


def _identity(file: Path) -> str:
    """What tells a file from another one that has taken its place."""
    return f"{file.stat().st_size} {file.stat().st_mtime_ns}"


def _check(archive: Archive) -> None:
    """Raise if an archive that is already there has none of the known checksums."""
    faults = []
    for checksum in archive.checksums:
        if not (fault := mismatch(archive.path, checksum)):
            return
        faults.append(fault)
    if faults:
        raise FetchError(
            f"{archive.path} is not the published archive ({'; '.join(faults)}): delete it, or "
            "name a file with its checksum by --checksums"
        )


def _download(archive: Archive, downloaded: Path) -> None:
    """Download an archive from the first source that has it; `downloaded` marks it as our own."""
    refusals = ["no mirror lists it"]
    for source in archive.sources:
        try:
            return _download_from(source, archive.path, downloaded)
        except NotThereError as error:
            refusals.append(str(error))
    raise NotThereError(
        f"{archive.path.name} could not be downloaded ({refusals[-1]}): pass --url with a mirror "
        f"that has it, or put the file into {archive.path.parent}"
    )


def _download_from(source: Source, path: Path, downloaded: Path) -> None:
    download(source.url, path, source.size)
    downloaded.write_text(_identity(path), "utf-8")
    if source.checksum and (fault := mismatch(path, source.checksum)):
        path.unlink()
        downloaded.unlink()
        raise FetchError(
            f"{path.name} from {source.url} is damaged: {fault}; it was removed; run again to "
            "download it again"
        )
