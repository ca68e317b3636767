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
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import platformdirs
from filelock import FileLock, Timeout
from requests import RequestException

from hearbench.errors import HearbenchError
from hearbench.tasks.fetch.download import FetchError, download, verify
from hearbench.weights import drive
from hearbench.weights.files import ARCHIVE, Member, files_in
from hearbench.weights.table import Weights

log = logging.getLogger(__name__)

CACHE_VARIABLE = "HEARBENCH_CACHE"
OFFLINE_VARIABLE = "HEARBENCH_OFFLINE"
OFF = ("", "0", "false", "no", "off")
SHOWN = 8  # names of a folder that an error lists
IN_RUN = re.compile(
    r"(?:config\.json|(?:checkpoints/)?checkpoint[-_](\d+)(?:\.pth|/checkpoint)?)", re.IGNORECASE
)
"""Files of a run to use, as paths below its folder."""


class WeightsError(HearbenchError, ValueError):
    """Raised for weights that can't be fetched; the message names the remedy."""


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
    if not source and (found := _kept(weights, folder)):
        return found
    try:
        with _lock(weights, folder):
            if not source and (found := _kept(weights, folder)):  # by another process
                return found
            return _fetch(weights, folder, source)
    except (WeightsError, FetchError, drive.DriveError) as error:
        raise WeightsError(f"{weights.name}: {error}; {_remedy(weights)}") from error
    except OSError as error:
        reason = _disk_reason(error, folder)
        raise WeightsError(f"{weights.name}: {reason}; {_remedy(weights)}") from error


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
        lock.release()


def _fetch(weights: Weights, folder: Path, source: Path | None) -> Path:
    draft = folder / f".{weights.name}.part"
    if source:
        shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(exist_ok=True)
    if source:
        path = _from_disk(weights, source.expanduser().resolve(), draft)
    elif os.environ.get(OFFLINE_VARIABLE, "").strip().lower() not in OFF:
        raise WeightsError(f"{OFFLINE_VARIABLE} is set; unset it to download them")
    else:
        path = _from_url(weights, draft) if weights.url else _from_drive(weights, draft)
    try:
        _check(weights, path, folder)
    except WeightsError:
        shutil.rmtree(draft, ignore_errors=True)  # else it seems complete
        raise
    target = folder / path.name
    if target.is_dir():
        shutil.rmtree(target)
    path.replace(target)
    shutil.rmtree(draft)
    return target


def _kept(weights: Weights, folder: Path) -> Path | None:
    found = (path for path in folder.glob("*") if weights.is_called(path.name))
    return min(found, default=None)


def _remedy(weights: Weights) -> str:
    name = f"{weights.file}..." if weights.is_run else weights.file
    return (
        f"you can also download {name} from {weights.page} with a browser and run "
        f"`hearbench weights get {weights.name} --from PATH`"
    )


def _disk_reason(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space is left in {folder}: free some, or set {CACHE_VARIABLE} or --to"
    file = Path(error.filename or folder)
    if file not in (folder, *folder.parents) and folder not in file.parents:
        return f"{file} can't be read ({error.strerror})"
    return f"{folder} can't be used ({error}): set {CACHE_VARIABLE} or --to to another folder"


def _from_url(weights: Weights, draft: Path) -> Path:
    path = draft / weights.file
    try:
        if not path.exists():
            download(weights.url, path, attempts=drive.RETRIES)
    except FetchError as error:
        if not isinstance(error.__cause__, RequestException):
            raise
        host = urlsplit(weights.url).hostname or weights.url
        raise WeightsError(drive.reason(error.__cause__, host)) from error
    if weights.sha256:
        verify(path, f"sha256:{weights.sha256}")
    return path


def _from_drive(weights: Weights, draft: Path) -> Path:
    if weights.drive_file:
        drive.transfer(weights.drive_file, draft / weights.file)
        return draft / weights.file
    listed = drive.list_folder(weights.drive_folder)
    try:
        run, files = choose(listed, weights)
    except WeightsError:
        archive = next((p for p in sorted(listed) if _is_zip_of(weights, p)), None)
        if archive is None:
            raise
        drive.transfer(listed[archive], draft / PurePosixPath(archive).name)
        return _from_disk(weights, draft / PurePosixPath(archive).name, draft)
    for name, file_id in files.items():
        target = draft / run / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            drive.transfer(file_id, target)
    return draft / run


def _is_zip_of(weights: Weights, path: str) -> bool:
    return weights.is_called(PurePosixPath(path).name) and path.lower().endswith(ARCHIVE)


def _from_disk(weights: Weights, source: Path, draft: Path) -> Path:
    if not source.exists():
        raise WeightsError(f"{source} does not exist")
    try:
        if weights.is_run:
            return _run_from_disk(weights, source, draft)
        found = _file_among(files_in(source), weights, source)
        found.copy_to(draft / weights.file)
    except (zipfile.BadZipFile, EOFError) as error:
        raise WeightsError(f"{source} is damaged ({error}): download it again") from error
    return draft / weights.file


def _file_among(files: Mapping[str, Member], weights: Weights, source: Path) -> Member:
    named = [path for path in files if PurePosixPath(path).name == weights.file]
    if named:
        return files[min(named, key=len)]
    if len(files) == 1:  # a file under another name
        return next(iter(files.values()))
    raise WeightsError(f"{source} contains no {weights.file}, but {_shown(files)}")


def _run_from_disk(weights: Weights, source: Path, draft: Path) -> Path:
    files = files_in(source)
    listed = {path: path for path in files}
    try:
        run, chosen = choose(listed, weights)
    except WeightsError:  # perhaps the run's folder under another name
        inside = {f"{weights.file}/{path.partition('/')[2]}": path for path in files}
        if source.is_file() or not any(IN_RUN.fullmatch(p.partition("/")[2]) for p in inside):
            raise
        run, chosen = choose(inside, weights)
    for name, path in chosen.items():
        files[path].copy_to(draft / run / name)
    return draft / run


def choose(listed: Mapping[str, str], weights: Weights) -> tuple[str, dict[str, str]]:
    """Choose a run among files, and the files of it to use: newest checkpoint and settings.

    Args:
        listed: path -> anything, e.g. a file id.
        weights: their `file` begins the run's name.

    Raises:
        WeightsError: if no run fits; the message lists the files.
    """
    runs: dict[str, dict[str, tuple[int | None, str]]] = {}
    for path, value in listed.items():
        parts = PurePosixPath(path).parts
        for depth, part in enumerate(parts[:-1]):
            inner = "/".join(parts[depth + 1 :])
            if weights.is_called(part) and (match := IN_RUN.fullmatch(inner)):
                step = None if match[1] is None else int(match[1])
                runs.setdefault(part, {})[inner] = (step, value)
    whole = {
        run: files for run, files in runs.items() if any(s is not None for s, _ in files.values())
    }
    if not whole:
        raise WeightsError(
            f"there is no checkpoint of a run {weights.file}* among {_shown(listed)}"
        )
    run = min(whole, key=_natural)
    newest = max(step for step, _ in whole[run].values() if step is not None)
    return run, {n: i for n, (step, i) in whole[run].items() if step in (None, newest)}


def _shown(names: Mapping[str, object]) -> str:
    more = ", ..." if len(names) > SHOWN else ""
    return ", ".join(sorted(names)[:SHOWN]) + more if names else "no files"


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts r2 before r10."""
    return [(int(n or 0), text) for text, n in re.findall(r"(\D*)(\d*)", name)]


def _check(weights: Weights, path: Path, folder: Path) -> None:
    """Load the checkpoint, and compare it with the first download."""
    module: Any = import_module(f"hearbench.systems.{weights.system}")
    try:
        module.load_model(str(path))
    except ValueError as error:
        raise WeightsError(f"the file does not load ({error})") from error
    record, digest = folder / f".{weights.name}.sha256", _digest(path)
    if record.exists() and (first := record.read_text(encoding="utf-8").strip()) != digest:
        raise WeightsError(
            f"it differs from the first download (sha256 {digest[:12]}..., then {first[:12]}...); "
            f"if its authors replaced it, delete {record}"
        )
    record.write_text(digest + "\n", encoding="utf-8")


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as content:
                while block := content.read(1 << 20):
                    total.update(block)
    return total.hexdigest()
