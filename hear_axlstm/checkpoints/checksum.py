"""Checksums of weights.

The sha256 of a file is taken from a sidecar, ``model.safetensors.sha256`` as `sha256sum` writes it,
or from a ``manifest.json`` like that of the shipped weights, both beside the file.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

SIDECAR = ".sha256"  # after the file's name
MANIFEST = "manifest.json"
DIGEST = re.compile(r"[0-9a-f]{64}")
BLOCK = 1 << 20  # bytes read at once


class ChecksumError(ValueError):
    """Raised for a file that does not match its checksum."""


def sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def verify(path: Path, known: str | None = None) -> None:
    """Compare a file with its checksum, if one is known.

    Args:
        path: the file.
        known: expected digest, for a file without a sidecar or manifest.

    Raises:
        ChecksumError: if it differs.
        ValueError: for a sidecar without a digest.
    """
    expected = _from_sidecar(path) or _from_manifest(path) or known
    if expected is not None and (found := sha256(path)) != expected:
        raise ChecksumError(
            f"{path} does not match its checksum (sha256 {found[:12]}..., published "
            f"{expected[:12]}...): download or install it again"
        )


def _from_sidecar(path: Path) -> str | None:
    sidecar = path.with_name(path.name + SIDECAR)
    if not sidecar.is_file():
        return None
    digest = sidecar.read_text(errors="replace", encoding="utf-8").strip().split(" ", 1)[0].lower()
    if not DIGEST.fullmatch(digest):
        raise ValueError(
            f"{sidecar} does not contain a sha256 digest: write it with sha256sum, or delete it"
        )
    return digest


def _from_manifest(path: Path) -> str | None:
    """Digest from the manifest; None if there is none, or it is another program's."""
    try:
        entries = json.loads((path.parent / MANIFEST).read_text("utf-8"))["weights"].values()
        return next((e["sha256"] for e in entries if e["file"] == path.name), None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
