"""Audio files inside tars, read as a stream; damage is an error instead of an early end."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any

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
