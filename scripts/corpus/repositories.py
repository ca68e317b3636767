"""Repositories at pinned revisions: download them, list their audio, read it without a checkout."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

AUDIO = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff")
LARGEST_BLOB = 4 * 2**20
"""Bytes; larger files of git repositories are left out: they are few, long and costly to keep."""
DEBIAN = "debian/"
SERVER = "https://github.com"


class FetchError(RuntimeError):
    """Raised if a repository or package can't be downloaded; the message names the remedy."""


def folder_of(repository: str, revision: str, parent: Path) -> Path:
    """Path of a repository, or of one version of a package, below the folder of all of them."""
    version = f"={revision}" if repository.startswith(DEBIAN) else ""
    return parent / (repository.replace("/", "+") + version)


def fetch(repository: str, revision: str, parent: Path, server: str = SERVER) -> Path:
    """Download one revision, without history, unless it is there already.

    Args:
        repository: owner/name, or debian/PACKAGE, which needs apt-get and dpkg-deb.
        revision: commit id, or version of the package.
        parent: folder of all repositories.
        server: base URL in front of owner/name.

    Returns:
        The git directory, or the folder of the unpacked package.

    Raises:
        FetchError: if the download fails.
    """
    folder = folder_of(repository, revision, parent)
    if repository.startswith(DEBIAN):
        if not folder.is_dir():
            _fetch_package(repository.removeprefix(DEBIAN), revision, folder)
        return folder
    if _has_commit(folder, revision):
        return folder
    _run("git", "init", "--quiet", "--bare", str(folder))
    _run("git", "-C", str(folder), "fetch", "--quiet", "--depth=1", f"{server}/{repository}",
         revision)  # fmt: skip
    return folder


def _has_commit(folder: Path, revision: str) -> bool:
    command = ["git", "-C", str(folder), "cat-file", "-e", f"{revision}^{{commit}}"]
    return folder.is_dir() and subprocess.run(command, capture_output=True).returncode == 0


def _fetch_package(name: str, version: str, folder: Path) -> None:
    """Unpack a Debian package, and the audio in zip archives inside it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        _run("apt-get", "download", f"{name}={version}", cwd=work)
        package = next(Path(work).glob("*.deb"))
        unpacked = Path(work) / "unpacked"
        _run("dpkg-deb", "--extract", str(package), str(unpacked))
        for archive in sorted(unpacked.rglob("*.zip")):
            with zipfile.ZipFile(archive) as members:
                audio = [name for name in members.namelist() if is_audio(name)]
                members.extractall(unpacked, audio)
        os.replace(unpacked, folder)


def _run(*command: str, cwd: str | None = None) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise FetchError(f"{command[0]} is not installed: {' '.join(command)}") from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().splitlines()[-1:] or [f"exit status {error.returncode}"]
        raise FetchError(f"{' '.join(command)}: {reason[0]}") from None


def is_audio(path: str) -> bool:
    """Whether a file's suffix is one that libsndfile decodes."""
    return path.lower().endswith(AUDIO)


@contextmanager
def open_tree(repository: str, revision: str, parent: Path) -> Iterator[Tree]:
    """Open a repository that `fetch` downloaded.

    Raises:
        FileNotFoundError: if it is not there, or not at this revision.
    """
    folder = folder_of(repository, revision, parent)
    if repository.startswith(DEBIAN) and folder.is_dir():
        yield FolderTree(folder)
        return
    if not _has_commit(folder, revision):
        raise FileNotFoundError(f"{folder} does not have revision {revision}: fetch it first")
    with subprocess.Popen(
        ["git", "-C", str(folder), "cat-file", "--batch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        yield GitTree(folder, revision, process)
        assert process.stdin is not None
        process.stdin.close()


class GitTree:
    """A commit in a git directory, read through `git cat-file --batch`."""

    def __init__(self, folder: Path, revision: str, process: subprocess.Popen[bytes]) -> None:
        self.folder, self.revision, self.process = folder, revision, process

    def blobs(self) -> dict[str, str]:
        """Git blob id by path, of all audio files; symbolic links are left out."""
        command = ["git", "-C", str(self.folder), "ls-tree", "-r", "-z", self.revision]
        listing = subprocess.run(command, check=True, capture_output=True).stdout
        found = {}
        for line in filter(None, listing.decode("utf-8", "surrogateescape").split("\0")):
            entry, path = line.split("\t", 1)
            mode, kind, blob = entry.split()
            if kind == "blob" and mode != "120000" and is_audio(path):
                found[path] = blob
        return found

    def read(self, path: str, blob: str) -> bytes | None:
        """A file's content, or None if it is missing or larger than `LARGEST_BLOB`."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(blob.encode() + b"\n")
        stdin.flush()
        header = stdout.readline().split()
        if len(header) != 3:  # "ID missing"
            return None
        data = stdout.read(int(header[2]))
        stdout.read(1)
        return data if len(data) <= LARGEST_BLOB else None


class FolderTree:
    """A plain folder; files get the ids that git would give them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def blobs(self) -> dict[str, str]:
        """Git blob id by path, of all audio files; symbolic links are left out."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and not path.is_symlink() and is_audio(path.name):
                data = path.read_bytes()
                blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                found[path.relative_to(self.folder).as_posix()] = blob
        return found

    def read(self, path: str, blob: str) -> bytes | None:
        """A file's content."""
        return (self.folder / path).read_bytes()


Tree: TypeAlias = GitTree | FolderTree
"""The audio files of a repository at one revision."""
