"""Downloading a published checkpoint: by pooch from a URL, by gdown from Google Drive.

FOLDER/<file or run>             a checkpoint that was downloaded whole and loads
FOLDER/.<name>.sha256            checksum of its first download
FOLDER/.<name>.part/             one on its way
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import platformdirs
from filelock import FileLock

from hearbench.weights.table import Weights

CACHE_VARIABLE = "HEARBENCH_CACHE"
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two blocks
RETRIES = 3
SHOWN = 8  # names of a folder that an error lists
IN_RUN = re.compile(r"(?:config\.json|(?:checkpoints/)?checkpoint[-_](\d+)(?:\.pth|/checkpoint)?)")
"""What is needed of a run, as a path below its folder."""


class WeightsError(ValueError):
    """Weights that can't be fetched; the message says why and what else to do."""


def default_folder() -> Path:
    """Where checkpoints are kept: HEARBENCH_CACHE, or the platform's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("hearbench"))


def get(weights: Weights, folder: Path) -> Path:
    """Put a checkpoint into `folder`, unless it is there.

    It is loaded once by its system before it appears under its name: a download that is cut off,
    or a page in place of a file, never looks like weights.

    Raises:
        WeightsError: if it is not for download, the download fails, or the file is not what it
            should be.
        OSError: if the folder can't be written.
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
    if found := _kept(weights, folder):
        return found
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{weights.name}.lock"):
        if found := _kept(weights, folder):  # another process may have fetched it
            return found
        draft = folder / f".{weights.name}.part"
        draft.mkdir(exist_ok=True)
        try:
            path = _from_url(weights, draft) if weights.url else _from_drive(weights, draft)
            _check(weights, path, folder)
        except WeightsError as error:
            raise WeightsError(f"{weights.name}: {error}; {_remedy(weights)}") from error
        target = folder / path.name
        path.rename(target)
        shutil.rmtree(draft)
        return target


def _kept(weights: Weights, folder: Path) -> Path | None:
    pattern = f"{weights.file}*" if weights.is_run else weights.file
    return next(iter(sorted(folder.glob(pattern))), None)


def _remedy(weights: Weights) -> str:
    name = f"{weights.file}..." if weights.is_run else weights.file
    return (
        f"try again, or get {name} from {weights.page} in a browser and name it: "
        f"hearbench run --systems {weights.system}@PATH"
    )


def _from_url(weights: Weights, draft: Path) -> Path:
    import pooch

    downloader = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT)
    known = f"sha256:{weights.sha256}" if weights.sha256 else None
    try:
        file = pooch.retrieve(weights.url, known, weights.file, draft, downloader=downloader)
    except ValueError as error:  # pooch: the checksum differs
        raise WeightsError(f"the file that came has another checksum ({error})") from error
    except OSError as error:  # requests' errors are OSErrors, too
        raise WeightsError(_reason(error)) from error
    return Path(file)


def _from_drive(weights: Weights, draft: Path) -> Path:
    if weights.drive_file:
        _transfer(weights.drive_file, draft / weights.file)
        return draft / weights.file
    run, files = choose(_listed(weights), weights)
    for name, file_id in files.items():
        target = draft / run / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            _transfer(file_id, target)
    return draft / run


def choose(listed: Mapping[str, str], weights: Weights) -> tuple[str, dict[str, str]]:
    """The run of a Drive folder, and what is needed of it: its newest checkpoint and settings.

    Args:
        listed: path in the folder -> file id.
        weights: their `file` begins the run's name.

    Raises:
        WeightsError: naming what the folder holds if no run fits.
    """
    runs: dict[str, dict[str, tuple[int | None, str]]] = {}
    for path, file_id in listed.items():
        parts = PurePosixPath(path).parts
        for depth, part in enumerate(parts[:-1]):
            inner = "/".join(parts[depth + 1 :])
            if part.startswith(weights.file) and (match := IN_RUN.fullmatch(inner)):
                step = None if match[1] is None else int(match[1])
                runs.setdefault(part, {})[inner] = (step, file_id)
    whole = {
        run: files for run, files in runs.items() if any(s is not None for s, _ in files.values())
    }
    if not whole:
        shown = ", ".join(sorted(listed)[:SHOWN]) or "nothing"
        raise WeightsError(f"the folder holds no checkpoint of a run {weights.file}*, but {shown}")
    run = min(whole)
    newest = max(step for step, _ in whole[run].values() if step is not None)
    return run, {n: i for n, (step, i) in whole[run].items() if step in (None, newest)}


def _listed(weights: Weights) -> dict[str, str]:
    import gdown

    try:
        files: Any = gdown.download_folder(
            id=weights.drive_folder,
            skip_download=True,
            quiet=True,
            use_cookies=False,
            timeout=TIMEOUT,
        )
    except Exception as error:  # gdown reads pages that may look like anything
        raise WeightsError(_reason(error)) from error
    return {PurePosixPath(*Path(file.path).parts).as_posix(): file.id for file in files}


def _transfer(file_id: str, target: Path) -> None:
    import gdown

    try:
        gdown.download(
            id=file_id,
            output=str(target),
            resume=True,
            retries=RETRIES,
            timeout=TIMEOUT,
            use_cookies=False,
        )
    except Exception as error:  # see above
        raise WeightsError(_reason(error)) from error


def _reason(error: Exception) -> str:
    from requests import ConnectionError, Timeout

    cause = error if isinstance(error, OSError) else error.__cause__ or error
    if isinstance(cause, Timeout):
        return "the server did not answer in time"
    if isinstance(cause, ConnectionError):
        return "there is no connection to the server"
    text = " ".join(str(error).split())[:160]
    return f"the download failed ({type(error).__name__}: {text})"


def _check(weights: Weights, path: Path, folder: Path) -> None:
    """Load the checkpoint, and compare it with the first download."""
    module: Any = import_module(f"hearbench.systems.{weights.system}")
    try:
        module.load_model(str(path))
    except ValueError as error:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        raise WeightsError(f"what came does not load ({error})") from error
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
