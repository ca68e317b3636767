"""The authors' weights: downloaded or read from a file, checked, converted and cached."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from hear_axlstm.checkpoints import archives, drive
from hear_axlstm.checkpoints.checksum import sha256
from hear_axlstm.checkpoints.format import save_tensors
from hear_axlstm.checkpoints.published import OFFLINE_VARIABLE, Published, cache, is_offline
from hear_axlstm.checkpoints.reference_release import is_release, read_release
from hear_axlstm.checkpoints.runs import choose, newest
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
        ValueError: if it is damaged, of another size, or not the one that was first downloaded.
        ConnectionError: if the download fails.
        OSError: if the cache can't be written.
    """
    if weights.path.is_file() and not source:
        return weights.path
    try:
        if is_offline() and (not source or _is_url(source)):
            raise FileNotFoundError(f"{OFFLINE_VARIABLE} is set; unset it to download them")
        with _lock(weights):
            if source or not weights.path.is_file():  # another process may have fetched it
                _fetch(weights, source)
    except ValueError as error:
        raise ValueError(_message(weights, error)) from error
    except (ConnectionError, FileNotFoundError) as error:
        raise type(error)(_message(weights, error)) from error
    except OSError as error:
        raise OSError(_message(weights, drive.disk_reason(error))) from error
    return weights.path


def _message(weights: Published, reason: object) -> str:
    return f"can't get {weights.name}: {reason}; you can also {weights.remedy}"


@contextmanager
def _lock(weights: Published) -> Iterator[None]:
    cache().mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache() / f".{weights.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("another process is fetching %s: waiting for it", weights.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch(weights: Published, source: str) -> None:
    found: dict[str, Any]
    if source:
        file, found = (_from_url if _is_url(source) else _from_disk)(source, weights)
    else:
        log.warning("%s is not in the cache: downloading it to %s", weights.name, cache())
        file, found = drive.download(weights)
    try:
        _convert(*_unpack(file, found, weights), weights)
    except (ValueError, FileNotFoundError):
        shutil.rmtree(weights.downloads, ignore_errors=True)  # else it seems complete
        raise
    shutil.rmtree(weights.downloads, ignore_errors=True)


def _is_url(source: str) -> bool:
    return source.startswith(("https://", "http://"))


def _from_url(url: str, weights: Published) -> tuple[Path, dict[str, Any]]:
    import pooch
    from requests import RequestException

    downloader = pooch.HTTPDownloader(progressbar=True, timeout=drive.TIMEOUT)
    try:
        file = pooch.retrieve(url, None, path=weights.downloads, downloader=downloader)
    except RequestException as error:
        raise ConnectionError(f"{url} can't be downloaded ({error})") from error
    return Path(file), {"file": PurePosixPath(url).name, "url": url}


def _from_disk(source: str, weights: Published) -> tuple[Path, dict[str, Any]]:
    path = Path(source).expanduser().resolve()
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_file():
        return path, {"file": path.name}
    return _chosen(archives.files_in(path), path, weights)


def _chosen(
    files: dict[str, archives.Member], place: Path, weights: Published
) -> tuple[Path, dict[str, Any]]:
    """The checkpoint among files on disk and in zips, on disk."""
    found = choose(files, weights) or newest(files)
    if found is None:
        shown = ", ".join(sorted(files)[: drive.NAMED_FILES]) or "no files"
        raise FileNotFoundError(
            f"{place} contains no checkpoint-EPOCH.pth and no zip with one; it lists {shown}"
        )
    member = files[found]
    if not member.name:
        return member.path, {"file": found}
    return archives.extract(member, weights.downloads), {"file": found}


def _unpack(file: Path, found: dict[str, Any], weights: Published) -> tuple[Path, dict[str, Any]]:
    """The checkpoint itself, extracted from the zip of a run if necessary."""
    while archives.is_archive(file):
        file, inner = _chosen(archives.files_in(file), file, weights)
        found |= {"file": (PurePosixPath(found["file"]).parent / inner["file"]).as_posix()}
    return file, found


def _convert(checkpoint: Path, found: dict[str, Any], weights: Published) -> None:
    """Check a checkpoint and write its tensors into the cache."""
    if not is_release(checkpoint):
        with checkpoint.open("rb") as file:
            start = file.read(16)
        raise ValueError(f"{checkpoint.name} is not a checkpoint (it begins with {start!r})")
    digest = sha256(checkpoint)
    name = PurePosixPath(found["file"]).name
    _compare(digest, name, weights)
    config, training, tensors = read_release(checkpoint, flip=True)
    _check_preset(config, weights)
    facts = {
        "weights": weights.name,
        "trained_on": weights.trained_on,
        "license": weights.license,
        "source": weights.page,
        **found,
        "size": checkpoint.stat().st_size,
        "sha256": digest,
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    save_tensors(weights.path, config, training | facts, tensors)
    with replacing(weights.record) as record:
        record.write_text(f"{digest}  {name}\n", encoding="utf-8")


def _compare(digest: str, name: str, weights: Published) -> None:
    """Compare a checkpoint with the first download of the same name."""
    try:
        first, first_name = weights.record.read_text(encoding="utf-8").split(maxsplit=1)
    except (OSError, ValueError):
        return
    if first_name.strip() == name and first != digest:
        raise ValueError(
            f"{name} differs from the first download (sha256 {digest[:12]}..., then "
            f"{first[:12]}...); if its authors replaced it, delete {weights.record} and try again"
        )


def _check_preset(config: ModelConfig, weights: Published) -> None:
    wanted = preset(weights.preset)
    differing = [
        f"{name} is {getattr(config, name)} instead of {getattr(wanted, name)}"
        for name in SETTINGS
        if getattr(config, name) != getattr(wanted, name)
    ]
    if differing:
        raise ValueError(f"the checkpoint is not of {weights.preset}: {', '.join(differing)}")
