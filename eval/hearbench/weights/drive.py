"""Listing and downloading public folders and files of Google Drive with gdown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

import gdown
import requests

from hearbench.download import FetchError, unreachable
from hearbench.progress import Progress

TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two blocks
RETRIES = 3
HOST = "drive.google.com"


def list_folder(folder_id: str) -> dict[str, str]:
    """The ids of all files of a folder, by their paths in it.

    Raises:
        FetchError: if the folder can't be listed.
    """
    options: dict[str, Any] = {"skip_download": True, "use_cookies": False, "timeout": TIMEOUT}
    with _explaining():
        for attempt in count():  # gdown does not retry a listing
            try:
                found: Any = gdown.download_folder(id=folder_id, quiet=True, **options)
                break
            except (requests.ConnectionError, requests.Timeout):
                if attempt >= RETRIES:
                    raise
                time.sleep(2**attempt)
        return {PurePosixPath(*Path(file.path).parts).as_posix(): file.id for file in found}


def transfer(file_id: str, target: Path) -> None:
    """Download a file, or resume its download.

    Raises:
        FetchError: if the download fails.
        OSError: if it can't be written.
    """
    with Progress(desc=target.name, unit="B", unit_scale=True) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

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

        with _explaining():
            _anew_if_changed(fetch, target)


def _anew_if_changed(fetch: Callable[[], None], target: Path) -> None:
    """Restart a download if the server no longer has the rest of the same file."""
    try:
        fetch()
    except gdown.exceptions.DownloadError as error:
        if "byte range" not in str(error):
            raise
        for partial in target.parent.glob("*.part"):
            partial.unlink()
        fetch()


@contextmanager
def _explaining() -> Iterator[None]:
    """Convert errors of gdown and requests to a single reason; disk errors are re-raised."""
    try:
        yield
    except requests.RequestException as error:
        raise _explained(error) from error
    except OSError:
        raise
    except Exception as error:  # gdown reads pages that may look like anything
        raise _explained(error) from error


def _explained(error: Exception) -> FetchError:
    """The error to raise for a failed transfer, in one sentence."""
    cause = error if isinstance(error, OSError) else error.__cause__ or error
    text = " ".join(str(error).split())
    if "Download is incomplete" in text or isinstance(
        cause, requests.exceptions.ChunkedEncodingError
    ):
        return FetchError("the transfer was interrupted; run the same command again to resume")
    if isinstance(cause, Exception) and (found := unreachable(cause, HOST)):
        return found
    if "many" in text and ("users" in text or "accesses" in text) and "status code" not in text:
        return FetchError(
            "Google Drive's daily quota of downloads for the file is used up, or it is not public"
        )
    return FetchError(f"the download failed ({type(error).__name__}: {text[:160]})")
