"""Listing and downloading the authors' Google Drive folder with gdown."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from hear_axlstm.checkpoints.authors.published import Published
from hear_axlstm.checkpoints.authors.runs import choose, not_found
from hear_axlstm.checkpoints.cache import CACHE_VARIABLE, weights_dir
from hear_axlstm.files import DISK_FULL
from hear_axlstm.progress import Progress

log = logging.getLogger(__name__)

TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two blocks of a response
RETRIES = 3
HOST = "drive.google.com"

Found = TypeVar("Found")


class DriveError(ConnectionError):
    """Raised if Google Drive refuses or a transfer fails; the message is a reason, not a remedy."""


class UnreachableError(DriveError):
    """Raised if Google Drive can't be reached, so that other downloads would fail, too."""


def download(weights: Published) -> tuple[Path, dict[str, Any]]:
    """Download the newest checkpoint of a run, or the zip of the run.

    Partial downloads are kept and resumed.

    Returns:
        The file, and where it comes from.

    Raises:
        DriveError: if Drive can't be reached or refuses.
        FileNotFoundError: if the folder does not contain the run.
        OSError: if the cache can't be written.
    """
    files = _list(weights)
    chosen = choose(files, weights)
    if chosen is None:
        raise not_found(files, weights, "the authors' folder")
    folder = weights.downloads / files[chosen]
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / PurePosixPath(chosen).name
    log.info("%s: downloading %s (license %s)", weights.name, chosen, weights.license)
    with _explaining():
        _transfer(files[chosen], target, weights.name)
    return target, {"file": chosen, "file_id": files[chosen]}


def _list(weights: Published) -> dict[str, str]:
    """Ids of all files in the folder, by path."""
    import gdown

    def ask() -> Any:
        return gdown.download_folder(
            id=weights.folder, skip_download=True, quiet=True, use_cookies=False, timeout=TIMEOUT
        )

    with _explaining():
        return {PurePosixPath(*Path(f.path).parts).as_posix(): f.id for f in _retrying(ask)}


def _retrying(ask: Callable[[], Found]) -> Found:
    """Call `ask`, retrying after connection errors; gdown does not retry a listing."""
    from requests import ConnectionError, Timeout

    for attempt in range(RETRIES):
        try:
            return ask()
        except (ConnectionError, Timeout) as error:
            log.debug("attempt %d to list the folder failed: %s", attempt + 1, error)
            time.sleep(2**attempt)
    return ask()


def _transfer(file_id: str, target: Path, label: str) -> None:
    import gdown

    with Progress(desc=label, unit="megabyte") as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = None if total is None else round(total / 1e6)
            bar.update(round(done / 1e6) - bar.n)

        def fetch() -> None:
            gdown.download(
                id=file_id,
                output=str(target),
                quiet=True,
                resume=True,
                retries=RETRIES,
                timeout=TIMEOUT,
                use_cookies=False,
                progress=show,
            )

        try:
            fetch()
        except gdown.exceptions.DownloadError as error:
            if "byte range" not in str(error):
                raise
            # The file has changed, or is already complete: start again.
            for partial in target.parent.glob("*.part"):
                partial.unlink()
            fetch()


@contextmanager
def _explaining() -> Iterator[None]:
    """Convert errors of gdown and requests to a single reason; disk errors are re-raised."""
    from requests import RequestException

    try:
        yield
    except RequestException as error:
        raise _explained(error) from error
    except OSError:
        raise
    except Exception as error:  # gdown reads pages that may look like anything
        raise _explained(error) from error


def _explained(error: Exception) -> DriveError:
    from gdown.exceptions import DownloadError
    from requests import ConnectionError, Timeout, exceptions

    cause = error if isinstance(error, OSError) else error.__cause__ or error
    text = " ".join(str(error).split())
    if isinstance(cause, exceptions.ProxyError):
        return UnreachableError(f"the proxy refused the connection to {HOST} (check HTTPS_PROXY)")
    if isinstance(cause, exceptions.SSLError):
        return UnreachableError(f"the secure connection to {HOST} failed ({text[:120]})")
    if "Download is incomplete" in text or isinstance(cause, exceptions.ChunkedEncodingError):
        return DriveError("the transfer was interrupted; run the same command again to resume it")
    if isinstance(cause, Timeout):
        return UnreachableError(
            f"{HOST} did not answer in time; run the same command again to resume"
        )
    if isinstance(cause, ConnectionError):
        return UnreachableError(f"there is no connection to {HOST}")
    if "many" in text and ("users" in text or "accesses" in text) and "status code" not in text:
        return DriveError(
            "Google Drive's daily quota of downloads for the file is used up, or it is not public"
        )
    if isinstance(error, (DownloadError, OSError)):
        return DriveError(f"Google Drive refused ({text[:160]})")
    return DriveError(
        f"Google Drive's response was not understood ({type(error).__name__}: {text[:120]})"
    )


def disk_reason(error: OSError) -> str:
    """Reason and remedy for an error of the cache's disk."""
    cache = weights_dir()
    if error.errno in DISK_FULL or "no space" in str(error).lower():
        return f"no space is left in {cache}: set {CACHE_VARIABLE} to a folder on another disk"
    cause = error.__cause__ or error
    reason = getattr(cause, "strerror", None) or cause
    file = Path(error.filename or cache)
    if file not in (cache, *cache.parents) and cache not in file.parents:
        return f"{file} can't be read ({reason})"
    return f"{cache} can't be used ({reason}): set {CACHE_VARIABLE} to a folder you can write to"
