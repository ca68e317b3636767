"""Digests of files, read in blocks: audio and checkpoints may be larger than the memory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

BLOCK = 1 << 20  # bytes


def update_from(total: Any, content: BinaryIO) -> None:
    """Feed a hashlib digest with the rest of a file."""
    # hashlib.file_digest needs Python 3.11, and reads one file only
    while block := content.read(BLOCK):
        total.update(block)


def digest_of(path: Path) -> bytes:
    """The SHA-256 of a file."""
    total = hashlib.sha256()
    with path.open("rb") as content:
        update_from(total, content)
    return total.digest()
