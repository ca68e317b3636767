"""Errors of audio files, in one line that names the file, what was found and a remedy."""

from __future__ import annotations

LONGEST_NAME = 200


class AudioError(ValueError):
    """A file that gives no usable audio; the message names the file and the remedy."""


class Fault(Exception):
    """Reason and remedy of an `AudioError` whose file is named further up."""


def printable(name: str) -> str:
    """A file name as it can stand in a line of text: escaped where needed, not endless."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    if len(text) > LONGEST_NAME:
        half = LONGEST_NAME // 2
        text = f"{text[:half]}...{text[-half:]} ({len(text):,} characters)"
    return text
