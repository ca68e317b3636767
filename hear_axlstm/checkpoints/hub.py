"""The Hugging Face hub: ``hf://org/repo[@revision][/file]``, downloaded and published.

The client is huggingface_hub, so HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN and its other
variables work as documented there, and errors keep its wording.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hear_axlstm.checkpoints.checksum import DIGEST, ChecksumError, verify

SCHEME = "hf://"
REPO = r"[^/@]+/[^/@]+"
PATTERN = re.compile(
    rf"hf://(?P<repo>{REPO})"
    r"(@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+))?"  # another / in it is written %2F
    r"(/(?P<file>.+))?"
)
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
REFUSED = (401, 403)
MISSING = (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError)


def is_address(spec: str) -> bool:
    """Whether a spec of weights is an address on the hub."""
    return spec.startswith(SCHEME)


def parse(spec: str, default_file: str) -> tuple[str, str | None, str]:
    """Split an address into repository, revision (None for the default branch) and file.

    Raises:
        ValueError: if it is incomplete.
    """
    match = PATTERN.fullmatch(spec)
    if match is None:
        raise ValueError(f"{spec!r} is incomplete: write hf://org/repo[@revision][/file]")
    revision = match["revision"]
    return match["repo"], revision and unquote(revision), match["file"] or default_file


def download(spec: str, default_file: str) -> Path:
    """Download a file into huggingface_hub's cache, or find it there.

    Large files are compared with the sha256 that the hub records; one that differs is deleted.

    Args:
        spec: the address.
        default_file: file to download if the address names only a repository.

    Raises:
        ValueError: for a wrong address, or a file that does not match its checksum.
        FileNotFoundError: if repository, revision or file is missing, or not cached when offline.
        PermissionError: if the repository is gated.
        ConnectionError: if the hub can't be reached or the connection drops.
    """
    repo, revision, file = parse(spec, default_file)
    with _reporting(spec):
        path = Path(hf_hub_download(repo, file, revision=revision))
    blob = path.resolve()
    try:
        verify(path, blob.name if DIGEST.fullmatch(blob.name) else None)
    except ChecksumError as error:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise ChecksumError(
            f"{spec}: {error}. It was deleted from the cache; if this happens again, the published "
            "file is wrong"
        ) from None
    return path


def upload(repo: str, contents: Mapping[str, Path | bytes], message: str, private: bool) -> str:
    """Publish files in one commit, in a repository that is created if it does not exist.

    Args:
        repo: ``org/repo``.
        contents: local files or bytes, by path in the repository.
        message: message of the commit.
        private: whether a new repository is private.

    Returns:
        The repository's page.

    Raises:
        ValueError, PermissionError, ConnectionError: if the hub refuses or can't be reached.
    """
    with _reporting(f"{SCHEME}{repo}"):
        api = HfApi()
        page = api.create_repo(repo, private=private or None, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
        api.create_commit(repo, operations, commit_message=message)
    return str(page)


@contextmanager
def _reporting(spec: str) -> Iterator[None]:
    """Raise the client's errors on one line, as built-in exceptions."""
    try:
        yield
    except (HTTPError, EntryNotFoundError, OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a local error, such as no space or no permission
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        kind: type[OSError] = ConnectionError
        if isinstance(error, MISSING) and not isinstance(error, GatedRepoError):
            kind = FileNotFoundError
        elif status in REFUSED:
            kind = PermissionError
        hint = f" ({LOG_IN})" if status in REFUSED else ""
        raise kind(f"{spec}: {' '.join(str(error).split())}{hint}") from None
