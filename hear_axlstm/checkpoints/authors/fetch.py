"""The authors' weights: downloaded or read from a file, checked, converted and cached."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from hear_axlstm.checkpoints.authors import archives, drive
from hear_axlstm.checkpoints.authors.published import Published
from hear_axlstm.checkpoints.authors.reference_release import is_release, read_release
from hear_axlstm.checkpoints.authors.runs import choose, newest, not_found, run_in
from hear_axlstm.checkpoints.cache import OFFLINE_VARIABLE, is_offline, weights_dir
from hear_axlstm.checkpoints.checksum import sha256
from hear_axlstm.checkpoints.format import Contents, check, save_tensors
from hear_axlstm.config import ModelConfig, preset
from hear_axlstm.files import replacing

log = logging.getLogger(__name__)

SETTINGS = ("architecture", "dim", "depth", "heads", "mlp_ratio", "patch", "window_frames", "mel")
"""Settings that a checkpoint must share with its preset; the release has several expansions."""


def get(weights: Published, source: str = "") -> Path:
    """Put weights into the cache, unless they are there already.

    If several processes call this, one fetches and the others wait. The checkpoint is read without
    executing anything in it, and deleted once it is converted.

    Args:
        weights: the weights to get.
        source: a checkpoint, zip or folder that was downloaded with a browser, or the URL of a
            checkpoint or zip; it replaces what is in the cache. By default the authors' folder.

    Returns:
        The safetensors file.

    Raises:
        FileNotFoundError: if there is no such checkpoint, or downloads are forbidden.
        ValueError: if it is damaged, of the wrong size, or not the one that was first downloaded.
        ConnectionError: if the download fails.
        OSError: if the cache can't be written.
    """
    is_local = bool(source) and not source.startswith(("https://", "http://"))
    try:
        if is_intact(weights.path) and not source:
            return weights.path
        if is_offline() and not is_local:
            raise FileNotFoundError(f"{OFFLINE_VARIABLE} is set; unset it to allow downloads")
        with _lock(weights):
            if source or not is_intact(weights.path):  # another process may have fetched it
                _fetch(weights, source, is_local)
    except (ValueError, OSError) as error:
        kind, reason = _explain(error)
        remedy = "" if is_local else f"; you can also {weights.remedy}"
        raise kind(f"can't get {weights.name}: {reason}{remedy}") from None
    return weights.path


def is_intact(path: Path) -> bool:
    """Whether converted weights exist and their header fits their tensors."""
    try:
        check(path)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _explain(error: ValueError | OSError) -> tuple[type[Exception], str]:
    """The type and text of an error; errors of the operating system get a remedy."""
    if isinstance(error, ValueError):
        return ValueError, str(error)
    if error.errno is None and isinstance(error, (ConnectionError, FileNotFoundError)):
        return type(error), str(error)
    return OSError, drive.disk_reason(error)


@contextmanager
def _lock(weights: Published) -> Iterator[None]:
    weights_dir().mkdir(parents=True, exist_ok=True)
    lock = FileLock(weights_dir() / f".{weights.name}.lock")
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


@dataclass
class _Found:
    """A checkpoint, or a folder or zip with one."""

    path: Path
    """The file or folder on this machine."""
    name: str
    """Its path at the source."""
    place: str = ""
    """What the name is relative to, for messages."""
    facts: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.place + self.name


def _fetch(weights: Published, source: str, is_local: bool) -> None:
    if is_local:
        found = _from_disk(Path(source).expanduser().resolve())
    elif source:
        found = _from_url(source, weights)
    else:
        path, facts = drive.download(weights)
        found = _Found(path, facts["file"], facts=facts)
    try:
        while found.path.is_dir() or archives.is_archive(found.path):
            _enter(found, weights)
        _convert(found, weights)
    except (ValueError, FileNotFoundError):
        # What was downloaded seems complete; an earlier download that is not can be resumed
        wrong = _unpacked(weights) if is_local else weights.downloads
        shutil.rmtree(wrong, ignore_errors=True)
        raise
    shutil.rmtree(weights.downloads, ignore_errors=True)


def _unpacked(weights: Published) -> Path:
    """Folder for files from zips."""
    return weights.downloads / "unpacked"


def _from_url(url: str, weights: Published) -> _Found:
    import pooch
    from requests import RequestException

    downloader = pooch.HTTPDownloader(progressbar=True, timeout=drive.TIMEOUT)
    try:
        file = pooch.retrieve(url, None, path=weights.downloads, downloader=downloader)
    except RequestException as error:
        raise ConnectionError(f"{url} can't be downloaded ({error})") from error
    place, _, name = url.rpartition("/")
    return _Found(Path(file), name, f"{place}/", {"url": url})


def _from_disk(path: Path) -> _Found:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    return _Found(path, path.name, f"{path.parent.as_posix().rstrip('/')}/")


def _enter(found: _Found, weights: Published) -> None:
    """Replace a folder or zip by the checkpoint in it, or by a zip."""
    above = PurePosixPath(found.name).parent
    files = archives.files_in(found.path)
    if archives.Member(found.path) in files.values():
        raise ValueError(f"{found} is damaged or cut off: download it again")
    full = {f"{found.place}{above / path}": path for path in files}
    chosen = choose(full, weights) or newest(p for p in full if _is_in_run(full[p]))
    if chosen is None:
        raise not_found(files, weights, str(found))
    member = files[full[chosen]]
    found.name = chosen.removeprefix(found.place)
    found.path = archives.extract(member, _unpacked(weights)) if member.name else member.path


def _is_in_run(path: str) -> bool:
    """Whether the first part of a path is the folder of a run, whatever its name."""
    return PurePosixPath(path).parts[1:-1] in ((), ("checkpoints",))


def _convert(found: _Found, weights: Published) -> None:
    """Check a checkpoint and write its tensors into the cache."""
    config, training, tensors = _read(found)
    _check_preset(config, found, weights)
    run = run_in(str(found), weights)
    if run is None:
        log.warning("using %s, although its path does not name run %s*", found, weights.prefix)
    digest, name = sha256(found.path), f"{run or weights.run}/{PurePosixPath(found.name).name}"
    _compare(digest, name, weights)
    facts = {
        "weights": weights.name,
        "trained_on": weights.trained_on,
        "license": weights.license,
        "source": weights.page,
        "file": found.name,
        **found.facts,
        "size": found.path.stat().st_size,
        "sha256": digest,
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    if weights.downloads not in found.path.parents:
        shutil.rmtree(weights.downloads, ignore_errors=True)  # it may fill the disk
    save_tensors(weights.path, config, training | facts, tensors)
    with replacing(weights.record) as record:
        record.write_text(f"{digest}  {name}\n", encoding="utf-8")


def _read(found: _Found) -> Contents:
    """Read a checkpoint; errors name its source instead of a download that is deleted."""
    try:
        if is_release(found.path):
            return read_release(found.path, flip=True)
    except ValueError as error:
        raise ValueError(str(error).replace(str(found.path), str(found))) from None
    with found.path.open("rb") as file:
        start = file.read(16).lstrip()
    kind = "a web page" if start.startswith(b"<") else "another file" if start else "an empty file"
    raise ValueError(f"{found} is not a PyTorch checkpoint but {kind}: download it again")


def _compare(digest: str, name: str, weights: Published) -> None:
    """Compare a checkpoint with the first download of the same run and name."""
    try:
        first, first_name = weights.record.read_text(encoding="utf-8").split(maxsplit=1)
    except (OSError, ValueError):
        return
    if first_name.strip() == name and first != digest:
        raise ValueError(
            f"{name} differs from the first download (sha256 {digest[:12]}..., then "
            f"{first[:12]}...); if its authors replaced it, delete {weights.record} and try again"
        )


def _check_preset(config: ModelConfig, found: _Found, weights: Published) -> None:
    wanted = preset(weights.preset)
    differing = [
        f"{name} is {getattr(config, name)} instead of {getattr(wanted, name)}"
        for name in SETTINGS
        if getattr(config, name) != getattr(wanted, name)
    ]
    if differing:
        raise ValueError(f"{found} does not fit {weights.preset}: {', '.join(differing)}")
