"""From what a user passes to a file on this machine."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from hear_axlstm.checkpoints import hub
from hear_axlstm.checkpoints.checksum import MANIFEST, verify
from hear_axlstm.checkpoints.format import FILE_NAME
from hear_axlstm.config import PRESETS

RELEASE_FOLDER = "checkpoints"  # below a run of the reference release
RELEASE_NAME = re.compile(r"checkpoint-(\d+)\.pth")


def locate(spec: str) -> Path:
    """The local file behind a preset, a path, a folder or ``hf://org/repo[@revision][/file]``.

    If a checksum is known, from a manifest or a sidecar beside the file, the file matches it.

    Raises:
        FileNotFoundError: if there is none; the message lists what may be passed.
        ValueError: if the address is wrong, or the file does not match its checksum.
        PermissionError, ConnectionError: if the hub refuses, or can't be reached.
    """
    if hub.is_address(spec):
        return hub.download(spec, FILE_NAME)
    if spec in (shipped := manifest()["weights"]):
        with resources.as_file(_shipped() / shipped[spec]["file"]) as path:
            verify(path)
            return path
    path = Path(spec).expanduser()
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {spec!r}: pass a preset ({', '.join(PRESETS)}), a .safetensors or .pth "
            f"file, a folder that holds {FILE_NAME}, a run of the reference release, or "
            "hf://org/repo[@revision]"
        )
    verify(path)
    return path


def manifest() -> dict[str, Any]:
    """The weights that ship: ``{"default": name, "weights": {name: {"file", "sha256", ...}}}``."""
    return json.loads(_shipped().joinpath(MANIFEST).read_text())


def _shipped() -> Any:
    return resources.files("hear_axlstm_weights")


def _in_folder(folder: Path) -> Path:
    """Our file, or else the latest checkpoint of the release; it may not be there."""
    if not (folder / FILE_NAME).is_file():
        numbered = {
            int(match[1]): path
            for path in (folder / RELEASE_FOLDER).glob("checkpoint-*.pth")
            if (match := RELEASE_NAME.fullmatch(path.name))
        }
        if numbered:
            return numbered[max(numbered)]
    return folder / FILE_NAME
