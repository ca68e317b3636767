"""Errors of audio files, each one line that names the file, the problem and a remedy."""

from __future__ import annotations

import errno

LONGEST_NAME = 200
LASTING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM}
LASTING |= {errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}  # EINVAL: a bad name on Windows


class AudioError(ValueError):
    """Raised for a file without usable audio; the message names the file and the remedy."""


class Fault(Exception):
    """Reason and remedy of an `AudioError`; the caller adds the file's name."""


def may_pass(cause: BaseException | None) -> bool:
    """Whether an error of the system may not occur again, such as one of a network disk."""
    if not isinstance(cause, OSError) or type(cause).__module__ != "builtins":  # as PyAV's own
        return False
    return cause.errno is not None and cause.errno not in LASTING


def printable(name: str) -> str:
    """A file name for use in a line of text: escaped if needed, shortened if very long."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    if len(text) > LONGEST_NAME:
        half = LONGEST_NAME // 2
        text = f"{text[:half]}...{text[-half:]} ({len(text):,} characters)"
    return text
