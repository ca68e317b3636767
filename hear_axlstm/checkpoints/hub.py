"""The Hugging Face hub: ``hf://org/repo[@revision][/file]``, fetched and published.

The client is huggingface_hub, so HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN and its other
variables mean what they always mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from huggingface_hub import (
    CommitOperationAdd,
    HfApi,
    constants,
    hf_hub_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hear_axlstm.checkpoints.checksum import DIGEST, MANIFEST, SIDECAR, ChecksumError, verify

SCHEME = "hf://"
REPO = r"[^/@]+/[^/@]+"
PATTERN = re.compile(
    rf"hf://(?P<repo>{REPO})"
    r"(@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+))?"  # another / in it is written %2F
    r"(/(?P<file>.+))?"
)
FAILURES = (HTTPError, OSError, RuntimeError)  # RuntimeError: of the transfer library hf-xet
LOG_IN = "log in by `hf auth login` or set HF_TOKEN"


class Address(NamedTuple):
    """A file on the hub."""

    repo: str
    revision: str | None
    """Branch, tag or commit; None for the default branch."""
    file: str


def is_address(spec: str) -> bool:
    """Whether something that was passed as weights means the hub."""
    return spec.startswith(SCHEME)


def parse(spec: str, default_file: str) -> Address:
    """Take an address apart.

    Raises:
        ValueError: if it is incomplete.
    """
    match = PATTERN.fullmatch(spec)
    if match is None:
        raise ValueError(f"{spec!r} is incomplete: write hf://org/repo[@revision][/file]")
    revision = match["revision"]
    return Address(match["repo"], revision and unquote(revision), match["file"] or default_file)


def download(spec: str, default_file: str) -> Path:
    """Fetch a file into huggingface_hub's cache, or find it there.

    Its sha256 is verified by a sidecar or manifest in the repository, or else by the hub's own
    record, kept for large files. A file with another one is deleted.

    Args:
        spec: the address.
        default_file: what to fetch if the address names a repository only.

    Raises:
        ValueError: for a wrong address, or a file that does not match its checksum.
        FileNotFoundError: if repository, revision or file is not there, or not cached offline.
        PermissionError: if it is gated or private.
        ConnectionError: if the hub can't be reached or the connection broke off.
    """
    address = parse(spec, default_file)
    try:
        path = Path(hf_hub_download(address.repo, address.file, revision=address.revision))
        _fetch_checksums(path, address)
    except (HFValidationError, *FAILURES) as error:
        raise _explained(error, address) from None
    blob = path.resolve()
    try:
        verify(path, blob.name if DIGEST.fullmatch(blob.name) else None)
    except ChecksumError as error:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise ChecksumError(
            f"{spec}: {error}. It was deleted from the cache; if it happens again, the file was "
            "published wrong"
        ) from None
    return path


def upload(repo: str, contents: Mapping[str, Path | bytes], message: str, private: bool) -> str:
    """Publish files in one commit, in a repository that is made if need be.

    Args:
        repo: ``org/repo``.
        contents: what to put where in the repository.
        message: of the commit.
        private: whether a new repository is.

    Returns:
        The repository's page.

    Raises:
        ValueError, PermissionError, ConnectionError: if the hub refuses or can't be reached.
    """
    try:
        api = HfApi()
        page = api.create_repo(repo, private=private or None, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
        api.create_commit(repo, operations, commit_message=message)
    except (HFValidationError, *FAILURES) as error:
        raise _explained(error, Address(repo, None, "")) from None
    return str(page)


def _fetch_checksums(path: Path, address: Address) -> None:
    """Bring what may know the file's checksum beside it, from the same commit."""
    inside = PurePosixPath(address.file)
    commit = path.parents[len(inside.parts) - 1].name
    for name in (f"{inside}{SIDECAR}", str(inside.with_name(MANIFEST))):
        if try_to_load_from_cache(address.repo, name, revision=commit) is not None:
            continue  # there, or known not to exist
        try:
            hf_hub_download(address.repo, name, revision=commit)
        except EntryNotFoundError:
            continue


def _explained(error: Exception, address: Address) -> Exception:
    """The one line that tells what went wrong and what to do about it."""
    repo, revision, file = address
    hub, where = constants.ENDPOINT, f"{repo}@{revision}" if revision else repo
    reason = " ".join(str(error.__cause__ or error).split())[:200]
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, HFValidationError):
        return ValueError(f"{where} is no repository's name: {reason}")
    if isinstance(error, GatedRepoError):
        return PermissionError(f"{repo} is gated: ask for access at {hub}/{repo}, then {LOG_IN}")
    if isinstance(error, RepositoryNotFoundError):
        return FileNotFoundError(
            f"no repository {repo} at {hub}, or none that you may see: check its name; if it is "
            f"private, {LOG_IN}"
        )
    if isinstance(error, RevisionNotFoundError):
        return FileNotFoundError(
            f"{repo} has no revision {revision!r}: name a branch, a tag or a commit"
        )
    if isinstance(error, OfflineModeIsEnabled) or (
        isinstance(error, LocalEntryNotFoundError) and constants.is_offline_mode()
    ):
        lacking = f"{file} of {where} is not in the cache" if file else f"can't publish {where}"
        return FileNotFoundError(
            f"{lacking}, and HF_HUB_OFFLINE is set: unset it and try again with a connection"
        )
    if isinstance(error, LocalEntryNotFoundError):
        return ConnectionError(
            f"can't reach {hub} ({reason}), and {file} of {where} is not in the cache: check the "
            "connection, or pass a local file"
        )
    if isinstance(error, EntryNotFoundError):
        return FileNotFoundError(
            f"{where} has no file {file}: name another as hf://org/repo[@revision]/file"
        )
    if status in (401, 403):
        return PermissionError(f"{hub} refuses {where} ({status}): {LOG_IN}")
    if isinstance(error, OSError) and error.errno is not None:
        return error  # of this machine: no space, no permission
    return ConnectionError(f"the transfer of {where} broke off ({reason}): start it again")
