"""Published checkpoints: downloaded from a URL or Google Drive, or taken from files on disk.

FOLDER/<file or run>             a checkpoint that is complete and loads
FOLDER/.<name>.sha256            checksum of its first download
FOLDER/.<name>.part/             unfinished download
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from hearbench.digests import update_from
from hearbench.download import UnreachableError, download
from hearbench.errors import HearbenchError, WeightsError
from hearbench.weights import drive
from hearbench.weights.files import ARCHIVE, ZipError, files_in
from hearbench.weights.runs import IN_RUN, choose, listing
from hearbench.weights.table import Weights

log = logging.getLogger(__name__)

CACHE_VARIABLE = "HEARBENCH_CACHE"
OFFLINE_VARIABLE = "HEARBENCH_OFFLINE"
OFF = ("", "0", "false", "no", "off")
CHECKPOINTS = (".pth", ".pt")
ATTEMPTS = 3  # without progress


def default_folder() -> Path:
    """Folder of the checkpoints: HEARBENCH_CACHE, or the platform's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("hearbench"))


def get(weights: Weights, folder: Path, source: Path | None = None) -> Path:
    """Put a checkpoint into `folder`, unless it is there already.

    Its system loads it once before it appears under its name, so that a truncated download or an
    error page is never taken for weights. If several processes call this, one fetches and the
    others wait.

    Args:
        weights: the weights to get.
        folder: destination.
        source: a file, folder or zip that was downloaded with a browser; it replaces the copy in
            `folder`.

    Raises:
        WeightsError: if there is no download, it fails, the file is not the expected checkpoint,
            or the folder can't be written.
    """
    if weights.hub:
        raise WeightsError(
            f"{weights.name} comes from the Hugging Face hub when it is first used: "
            f"hearbench run --systems huggingface@{weights.hub}"
        )
    if not weights.can_be_fetched:
        raise WeightsError(
            f"{weights.name} is not downloaded here ({weights.license}): read the license and get "
            f"{weights.file} from {weights.page}"
        )
    try:
        if not source and (found := _kept(weights, folder)):
            return found
        if not source and os.environ.get(OFFLINE_VARIABLE, "").strip().lower() not in OFF:
            raise WeightsError(f"{OFFLINE_VARIABLE} is set; unset it to allow downloads")
        with _lock(weights, folder):
            if not source and (found := _kept(weights, folder)):  # by another process
                return found
            return _fetch(weights, folder, source)
    except (HearbenchError, OSError) as error:
        reason = _disk_reason(error, folder) if isinstance(error, OSError) else error
        remedy = "" if source else f"; {_remedy(weights)}"
        raise WeightsError(f"{weights.name}: {reason}{remedy}") from error


def get_all(
    wanted: Iterable[Weights], folder: Path, source: Path | None = None
) -> Iterator[tuple[Weights, Path | WeightsError]]:
    """Get several weights in turn, see `get`; yields each with its path or error.

    If a server can't be reached, the other downloads from it are skipped.
    """
    unreachable: set[str] = set()
    for weights in wanted:
        try:
            is_skipped = weights.can_be_fetched and weights.host in unreachable
            if is_skipped and not (source or _kept(weights, folder)):
                raise WeightsError(f"{weights.name}: skipped, as {weights.host} can't be reached")
            result: Path | WeightsError = get(weights, folder, source)
        except WeightsError as error:
            if isinstance(error.__cause__, UnreachableError):
                unreachable.add(weights.host)
            result = error
        yield weights, result


@contextmanager
def _lock(weights: Weights, folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f".{weights.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("another process is fetching %s: waiting for it", weights.name)
        lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):  # on Windows it stays until it is released
            Path(lock.lock_file).unlink()
        lock.release()


def _fetch(weights: Weights, folder: Path, source: Path | None) -> Path:
    # A file that is given must not cost a download that can be resumed
    resumable, unpacked = (folder / f".{weights.name}.{kind}" for kind in ("part", "unpacked"))
    draft = unpacked if source else resumable
    if source:
        source = source.expanduser().resolve()
        if not source.exists():
            raise WeightsError(f"{source} does not exist")
        shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(exist_ok=True)
    try:
        if source:
            from_disk = _run_from_disk if weights.is_run else _file_from_disk
            path, origin = from_disk(weights, source, draft)
        else:
            path, origin = (_from_url if weights.url else _from_drive)(weights, draft)
        _check(weights, path, origin, folder)
    except (WeightsError, ZipError):
        shutil.rmtree(draft, ignore_errors=True)  # else it seems complete
        raise
    finally:
        with suppress(OSError):  # unless something was downloaded
            draft.rmdir()
    if not any(map(weights.is_called, PurePosixPath(origin).parts)):
        log.warning("%s: using %s, which is not called %s", weights.name, origin, weights.file)
    target = folder / path.name
    if weights.is_run and target.is_dir():
        shutil.rmtree(target)
    path.replace(target)
    for obsolete in (resumable, unpacked):
        shutil.rmtree(obsolete, ignore_errors=True)
    return target


def _kept(weights: Weights, folder: Path) -> Path | None:
    return min(filter(weights.is_at, folder.glob("*")), default=None)


def _remedy(weights: Weights) -> str:
    name = f"{weights.file}..." if weights.is_run else weights.file
    return (
        f"you can also download {name} from {weights.page} with a browser and run "
        f"`hearbench weights get {weights.name} --from PATH`"
    )


def _disk_reason(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space is left in {folder}: set {CACHE_VARIABLE} to a folder on another disk"
    file, reason = Path(error.filename or folder), error.strerror or error
    if file not in (folder, *folder.parents) and folder not in file.parents:
        return f"{file} can't be read ({reason})"
    return f"{folder} can't be used ({reason}): set {CACHE_VARIABLE} or --to to another folder"


def _from_url(weights: Weights, draft: Path) -> tuple[Path, str]:
    path = draft / weights.file
    if not path.exists():
        download(weights.url, path, attempts=ATTEMPTS)
    return path, weights.file


def _from_drive(weights: Weights, draft: Path) -> tuple[Path, str]:
    if weights.drive_file:
        drive.transfer(weights.drive_file, draft / weights.file)
        return draft / weights.file, weights.file
    listed = drive.list_folder(weights.drive_folder)
    try:
        run, files = choose(listed, weights)
    except WeightsError:
        zips = [path for path in sorted(listed) if path.lower().endswith(ARCHIVE)]
        archive = next((p for p in zips if weights.is_called(PurePosixPath(p).name)), None)
        if archive is None:
            raise
        packed = draft / PurePosixPath(archive).name
        drive.transfer(listed[archive], packed)
        path, origin = _run_from_disk(weights, packed, draft)
        return path, origin.removeprefix(f"{draft}/")
    for name, file_id in files.items():
        target = draft / run / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            drive.transfer(file_id, target)
    return draft / run, run


def _file_from_disk(weights: Weights, source: Path, draft: Path) -> tuple[Path, str]:
    files = files_in(source)
    named = [path for path in files if PurePosixPath(path).name == weights.file]
    renamed = [path for path in files if source.is_file() or path.endswith(CHECKPOINTS)]
    if not named and len(renamed) != 1:
        raise WeightsError(f"{source} contains no {weights.file}, but {listing(files)}")
    chosen = min(named or renamed, key=len)
    files[chosen].copy_to(draft / weights.file)
    return draft / weights.file, f"{source.parent}/{chosen}"


def _run_from_disk(weights: Weights, source: Path, draft: Path) -> tuple[Path, str]:
    files = files_in(source)
    try:
        run, chosen = choose({path: path for path in files}, weights)
    except WeightsError:  # perhaps the run's folder under another name
        inside = {f"{weights.file}/{path.partition('/')[2]}": path for path in files}
        if source.is_file() or not any(IN_RUN.fullmatch(p.partition("/")[2]) for p in inside):
            raise
        run, chosen = choose(inside, weights)
    for name, path in chosen.items():
        files[path].copy_to(draft / run / name)
        origin = f"{source.parent}/{path}".removesuffix(f"/{name}")
    return draft / run, origin


def _check(weights: Weights, path: Path, origin: str, folder: Path) -> None:
    """Load the checkpoint, and compare it with the published one, or the first download."""
    module: Any = import_module(f"hearbench.systems.{weights.system}")
    try:
        module.load_model(str(path))
    except ValueError as error:
        reason = str(error).replace(str(path), origin)
        raise WeightsError(f"the file does not load: {reason}") from error
    record, digest = folder / f".{weights.name}.sha256", _digest(path)
    if weights.sha256 not in ("", digest):
        raise WeightsError(
            f"{origin} is not the published file: its sha256 is {digest} instead of "
            f"{weights.sha256}"
        )
    if record.exists() and (first := record.read_text(encoding="utf-8").strip()) != digest:
        raise WeightsError(
            f"{origin} differs from the first download (sha256 {digest[:12]}..., then "
            f"{first[:12]}...); if its authors replaced it, delete {record}"
        )
    record.write_text(digest + "\n", encoding="utf-8")


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as content:
                update_from(total, content)
    return total.hexdigest()
