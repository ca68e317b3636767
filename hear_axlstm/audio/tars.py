"""Audio files inside tars, read as a stream; damage is an error instead of an early end."""

from __future__ import annotations

import gzip
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any

from hear_axlstm.audio.listing import SourceError

MEMBER_BYTES = 1 << 30  # of one file inside a tar: bounds memory, whatever a small tar expands to


class _StrictTarInfo(tarfile.TarInfo):
    """Headers that raise where tarfile takes damage or a missing end for the end."""

    @classmethod
    def fromtarfile(cls, tar: Any) -> _StrictTarInfo:
        try:
            member = super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            tar.is_complete = True  # a block of zeros ends an archive; another one may follow
            raise
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            if getattr(tar, "is_complete", False):
                raise
            raise tarfile.ReadError("cut off between two files") from error
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"damaged header ({error})") from error
        tar.is_complete = False
        return member


def is_remote(url: str) -> bool:
    """Whether a tar comes by URL or through a pipe."""
    return bool(re.match(r"[a-zA-Z][\w+.-]*://|pipe:", url))


def expand_tars(pattern: str) -> list[str]:
    """Paths or URLs of tars from a pattern with braces, by the webdataset library.

    Raises:
        SourceError: for a pattern that is not valid, or without the library.
    """
    if "{" not in pattern and not is_remote(pattern):
        return [pattern]
    try:
        from webdataset.shardlists import expand_urls
    except ImportError as error:
        raise SourceError(
            "tars by URL or pattern need the library webdataset: pip install 'hear_axlstm[train]'"
        ) from error
    try:
        return list(expand_urls(pattern))
    except ValueError as error:
        raise SourceError(f"{pattern}: {error}: write e.g. train-{{000..127}}.tar") from error


def open_tar(url: str) -> Any:
    """A stream of the bytes of a tar, by the webdataset library where it is remote."""
    if not is_remote(url):
        return open(url, "rb")
    from webdataset import gopen

    return gopen(url)


def read_tar(
    stream: IO[bytes], is_wanted: Callable[[str], bool], is_gzip: bool = False
) -> Iterator[tuple[str, bytes | None]]:
    """Name and content of each wanted file of a tar; content None for one that is too large.

    Tars that were joined to one file are read to the end.

    Raises:
        tarfile.TarError, OSError, EOFError, zlib.error: for damage, also where the end is missing.
    """
    if is_gzip:  # reads to the end, and compares the checksum there
        stream = gzip.GzipFile(fileobj=stream)  # type: ignore[assignment]
    mode: Any = "r|" if is_gzip else "r|*"
    with tarfile.open(fileobj=stream, mode=mode, tarinfo=_StrictTarInfo, ignore_zeros=True) as tar:
        for member in tar:
            if not (member.isreg() and is_wanted(member.name)):
                continue
            if member.size > MEMBER_BYTES:
                yield member.name, None
                continue
            file = tar.extractfile(member)
            assert file is not None
            content = file.read()
            if len(content) < member.size:
                raise tarfile.ReadError(f"cut off inside {os.path.basename(member.name)}")
            yield member.name, content
            tar.members = []  # type: ignore[attr-defined]  # else a tar of millions would keep them all
