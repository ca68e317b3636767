"""Tars as a source of clips: their audio files, read as a stream; damage raises an error."""

from __future__ import annotations

import gzip
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from typing import IO, Any

from hear_axlstm.audio.clips import AudioClip, ClipGroup, file_stamp
from hear_axlstm.audio.errors import may_pass
from hear_axlstm.audio.listing import SourceError, may_be_audio
from hear_axlstm.audio.skipped import Skipped
from hear_axlstm.wording import plural

MEMBER_BYTES = 1 << 30  # largest file in a tar: bounds memory if a small tar expands a lot
TOO_LARGE = "too large inside a tar: unpack the tar"
LINK = "a link inside a tar: unpack the tar, or make it with tar --dereference --hard-dereference"


class _StrictTarInfo(tarfile.TarInfo):
    """Tar header that raises where tarfile mistakes damage or truncation for the end."""

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


class TarSource:
    """The audio files in tars, one group per tar; the webdataset library opens URLs.

    Args:
        pattern: paths or URLs with braces to expand, e.g. ``train-{000..127}.tar``.
    """

    name = ""

    def __init__(self, pattern: str) -> None:
        self.urls = expand_tars(pattern)
        self._above = os.path.commonprefix(self.urls).rfind("/") + 1  # noqa: RUF071 (URLs, too)

    def clips(self) -> Iterator[AudioClip | Skipped]:
        """All clips, tar by tar."""
        return chain.from_iterable(map(self._read, self.urls))

    def groups(self, size: int, most: int | None = None) -> Iterator[ClipGroup]:
        """The clips of each tar, of any number."""
        for url in self.urls:
            stamp = url if is_remote(url) else f"{url[self._above :]}:{file_stamp(url)}"
            yield ClipGroup(self._read(url), None, partial(iter, [stamp]))

    def sample(self, size: int) -> tuple[list[AudioClip | Skipped], int]:
        """Clips of the first tar; the others are assumed to contain as many."""
        clips = self._read(self.urls[0])
        found = list(islice(clips, size))
        return found, (len(found) + sum(1 for _ in clips)) * len(self.urls)

    def _read(self, url: str) -> Iterator[AudioClip | Skipped]:
        name, clips = url[self._above :], 0
        is_gzip = url.lower().endswith((".gz", ".tgz"))
        try:
            with open_tar(url) as stream:
                for member, content in read_tar(stream, may_be_audio, is_gzip):
                    if isinstance(content, str):
                        yield Skipped(f"{name}/{member}", content)
                        continue
                    yield AudioClip(f"{name}/{member}", content)
                    clips += 1
        except Exception as error:  # of the tar format, a compression, a file or a connection
            detail = (str(error) or type(error).__name__).split(" @ <")[0]
            remedy = "check the disk or network" if may_pass(error) else "download it again"
            reason = f"cut off after {plural(clips, 'clip')} ({detail}): {remedy}"
            yield Skipped(name, reason, transient=is_remote(url) or may_pass(error))


def is_remote(url: str) -> bool:
    """Whether a tar is read from a URL or a pipe."""
    return bool(re.match(r"[a-zA-Z][\w+.-]*://|pipe:", url))


def expand_tars(pattern: str) -> list[str]:
    """Expand braces in a pattern of paths or URLs with the webdataset library.

    Raises:
        SourceError: for an invalid pattern, or without the library.
    """
    if "{" not in pattern and not is_remote(pattern):
        return [pattern]
    try:
        from webdataset.shardlists import expand_urls
    except ImportError as error:
        raise SourceError(
            "tars by URL or pattern need webdataset: run pip install '.[train]' in the clone"
        ) from error
    try:
        return list(expand_urls(pattern))
    except ValueError as error:
        raise SourceError(f"{pattern}: {error}: write e.g. train-{{000..127}}.tar") from error


def open_tar(url: str) -> Any:
    """Open a tar as a byte stream, with the webdataset library if it is remote."""
    if not is_remote(url):
        return open(url, "rb")
    from webdataset import gopen

    return gopen(url)


def read_tar(
    stream: IO[bytes], is_wanted: Callable[[str], bool], is_gzip: bool = False
) -> Iterator[tuple[str, bytes | str]]:
    """Yield name and content of each wanted file of a tar, or as text why it can't be read.

    Concatenated tars are read to the end.

    Raises:
        tarfile.TarError, OSError, EOFError, zlib.error: for damage, including a missing end.
    """
    if is_gzip:  # reads to the end, and compares the checksum there
        stream = gzip.GzipFile(fileobj=stream)  # type: ignore[assignment]
    mode: Any = "r|" if is_gzip else "r|*"
    with tarfile.open(fileobj=stream, mode=mode, tarinfo=_StrictTarInfo, ignore_zeros=True) as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # else a tar of millions would keep them all
            is_link = member.issym() or member.islnk()  # to a file that a stream can't go back to
            if not ((member.isreg() or is_link) and is_wanted(member.name)):
                continue
            if is_link or member.size > MEMBER_BYTES:
                yield member.name, LINK if is_link else TOO_LARGE
                continue
            file = tar.extractfile(member)
            assert file is not None
            content = file.read()
            if len(content) < member.size:
                raise tarfile.ReadError(f"cut off inside {os.path.basename(member.name)}")
            yield member.name, content
