"""Downloads over HTTP: resumable, but never mixing two versions of a file; their errors.

gdown, which `hearbench.weights.drive` uses for Google Drive, does not retry a busy server, and
would join a file that has changed between two calls to the older part.
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3

from hearbench.digests import update_from
from hearbench.errors import HearbenchError
from hearbench.progress import Progress

TIMEOUT = (15.0, 60.0)  # seconds to connect, and to wait for data
ATTEMPTS = 6  # consecutive attempts without progress
PAUSE = 1.0  # seconds before the second attempt, doubled before each further one
LONGEST_PAUSE = 120.0
CHUNK = 1 << 20
BUSY = (429, 500, 502, 503, 504)
DROPPED = (
    requests.ConnectionError,
    requests.Timeout,
    urllib3.exceptions.HTTPError,  # while the body is read
)


class FetchError(HearbenchError, RuntimeError):
    """Raised for something that can't be fetched; the message says why."""


class NotThereError(FetchError):
    """Raised if the server does not have the file, or refuses access."""


class UnreachableError(FetchError):
    """Raised if the server can't be reached, so that other downloads from it would fail, too."""


class _TryAgainError(Exception):
    """A transient failure; `after` is the number of seconds that the server asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


@dataclass(frozen=True)
class _State:
    """URL and version of the file that was downloaded in part."""

    url: str
    validator: str
    """Strong ETag or modification date; empty if there is none, which prevents resuming."""
    size: int | None


def download(url: str, path: Path, size: int | None = None, *, attempts: int | None = None) -> None:
    """Download `url` to `path`, resuming an earlier attempt if the file has not changed.

    Partial data are kept in `<path>.part`, with a record of the file's version. After a dropped
    connection the download is retried, until several attempts in a row make no progress.

    Args:
        url: URL of the file.
        path: path of the complete file, which is created atomically.
        size: size in bytes, if known, for the progress bar.
        attempts: number of attempts without progress, by default `ATTEMPTS`.

    Raises:
        NotThereError: if the server refuses the file.
        UnreachableError: if the server can't be reached.
        FetchError: if it keeps failing.
    """
    part = path.with_name(path.name + ".part")
    failures = most = 0
    with (
        requests.Session() as session,
        Progress(
            desc=path.name, total=size, unit="B", unit_scale=True, unit_divisor=1000, smoothing=0.1
        ) as progress,
    ):
        while True:
            try:
                _attempt(session, url, part, progress)
                break
            except (*DROPPED, _TryAgainError) as error:
                # without a validator each attempt starts anew: only the largest size is progress
                failures = failures + 1 if _size(part) <= most else 1
                most = max(most, _size(part))
                if failures >= (attempts or ATTEMPTS):
                    raise unreachable(error, urlsplit(url).hostname or url) or FetchError(
                        f"{url} failed {failures} times without progress, last with {error}: "
                        "run again later; partial data are kept"
                    ) from error
                asked = error.after if isinstance(error, _TryAgainError) else 0.0
                time.sleep(min(LONGEST_PAUSE, max(asked, PAUSE * 2 ** (failures - 1))))
            except requests.RequestException as error:  # e.g. no URL, or redirected in circles
                raise NotThereError(f"{url}: {error}") from error
    part.replace(path)
    _note(part).unlink(missing_ok=True)


def unreachable(error: Exception, host: str) -> UnreachableError | None:
    """What to raise if `error` says that a server can't be reached; None for other errors."""
    if isinstance(error, requests.exceptions.ProxyError):
        reason = f"the proxy refused the connection to {host} (check HTTPS_PROXY)"
    elif isinstance(error, requests.exceptions.SSLError):
        text = " ".join(str(error).split())
        reason = f"the secure connection to {host} failed ({text[:120]})"
    elif isinstance(error, requests.Timeout):
        reason = f"{host} did not answer in time; run the same command again to resume"
    elif isinstance(error, requests.ConnectionError):
        reason = f"there is no connection to {host}; run the same command again to resume"
    else:
        return None
    return UnreachableError(reason)


def mismatch(path: Path, checksum: str) -> str:
    """What a file has instead of its checksum, in words; empty if it has it.

    Args:
        path: the file.
        checksum: `<algorithm>:<hex digits>` or hex digits alone, of MD5, SHA-1, SHA-256 or SHA-512.

    Raises:
        FetchError: for anything else than a checksum.
    """
    algorithm, _, digits = checksum.rpartition(":")
    name = algorithm or {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}.get(len(digits), "")
    if name not in hashlib.algorithms_guaranteed:
        raise FetchError(f"{checksum!r} is not a checksum: write md5:... or sha256:...")
    total = hashlib.new(name, usedforsecurity=False)
    bar = {"desc": f"checking {path.name}", "total": _size(path), "leave": False}
    with path.open("rb") as content, Progress.wrapattr(content, "read", **bar) as file:
        update_from(total, file)
    if total.hexdigest() == digits.lower():
        return ""
    return f"its {name} is {total.hexdigest()} instead of {digits}"


def partial_size(path: Path) -> int:
    """Number of bytes of `path` that have been downloaded."""
    return _size(path) or _size(path.with_name(path.name + ".part"))


def _attempt(session: requests.Session, url: str, part: Path, progress: Progress) -> None:
    """Make one request; returns when `part` is complete."""
    state = _resumable(part, url)
    have = _size(part) if state else 0
    # identity, since ranges must count bytes of the file, not of a compressed transfer
    headers = {"Accept-Encoding": "identity"}
    if state:
        headers |= {"Range": f"bytes={have}-", "If-Range": state.validator}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        _check_status(response)
        if state and response.status_code == 416 and have == state.size:
            return  # complete, but not renamed yet
        if state and not _continues(response, state, have):
            state, have = None, 0
            if response.status_code != 200:  # a range of something else
                part.unlink()
                raise _TryAgainError("the file changed on the server")
        if response.status_code != (206 if state else 200):
            raise _TryAgainError(f"status {response.status_code}")
        if state is None:
            state = _State(url, _validator(response), _length(response))
            _note(part).write_text(json.dumps(asdict(state)), "utf-8")
        progress.total = state.size or progress.total
        progress.n = have
        progress.refresh()
        with part.open("ab" if have else "wb") as file:
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                file.write(chunk)
                progress.update(len(chunk))
    if state.size is not None and _size(part) != state.size:
        raise _TryAgainError(f"{_size(part)} of {state.size} bytes")


def _check_status(response: requests.Response) -> None:
    status = response.status_code
    if status in BUSY:
        after = response.headers.get("Retry-After", "")
        raise _TryAgainError(f"status {status}", float(after) if after.isdigit() else 0.0)
    if 400 <= status < 500 and status != 416:
        raise NotThereError(f"{response.url}: the server returned {status} {response.reason}")


def _continues(response: requests.Response, state: _State, have: int) -> bool:
    """Whether the response is the rest of the same file, after its first `have` bytes."""
    if response.status_code != 206:
        return False
    validator = _validator(response)
    span = f"bytes {have}-"
    return (
        response.headers.get("Content-Range", "").startswith(span)
        and validator in ("", state.validator)
        and state.size in (None, have + (_length(response) or 0))
    )


def _validator(response: requests.Response) -> str:
    """Value for If-Range (RFC 9110, 13.1.5): a strong ETag, else the modification date."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _resumable(part: Path, url: str) -> _State | None:
    """The state of an earlier download of `url` that can be resumed, if there is one."""
    with suppress(FileNotFoundError, ValueError, TypeError):
        state = _State(**json.loads(_note(part).read_text("utf-8")))
        if _size(part) and state.url == url and state.validator:
            return state
    return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
