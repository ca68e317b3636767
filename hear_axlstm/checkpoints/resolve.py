"""Resolution of weights, as a user names them, to a local file.

A name is ``PRESET.TAG``, e.g. ``axlstm_base.audioset``; a preset alone means its shipped weights.
"""

from __future__ import annotations

import json
import logging
from importlib import resources
from pathlib import Path
from typing import Any

from hear_axlstm.checkpoints import hub
from hear_axlstm.checkpoints.authors import fetch
from hear_axlstm.checkpoints.authors.published import PUBLISHED, TAG
from hear_axlstm.checkpoints.authors.runs import newest_in_folder
from hear_axlstm.checkpoints.cache import is_offline, weights_dir
from hear_axlstm.checkpoints.checksum import MANIFEST, verify
from hear_axlstm.checkpoints.format import FILE_NAME
from hear_axlstm.checkpoints.unfinished import newest_of_run
from hear_axlstm.config import PRESETS

log = logging.getLogger(__name__)

RANDOM = "random"  # the tag of random weights, which no file contains


def locate(spec: str) -> Path:
    """The local file behind a name, a path, a folder or ``hf://org/repo[@revision][/file]``.

    Weights that are published but not in the cache are downloaded. If a checksum is known, from a
    manifest or a sidecar beside the file, the file matches it.

    Raises:
        FileNotFoundError: if nothing is found; the message lists the accepted forms.
        ValueError: for a preset without shipped weights, a wrong address, or a file that does not
            match its checksum.
        OSError: if a download fails, or the cache can't be written.
    """
    if hub.is_address(spec):
        return hub.download(spec, FILE_NAME)
    if spec in PUBLISHED:
        if not (PUBLISHED[spec].path.is_file() or is_offline()):
            log.warning("%s is not in the cache: downloading it to %s", spec, weights_dir())
        return fetch.get(PUBLISHED[spec])
    for preset, entry in manifest()["weights"].items():
        if spec in (preset, shipped_name(preset)):
            with resources.as_file(_shipped() / entry["file"]) as path:
                verify(path)
                return path
    if spec in PRESETS:
        authors = f"{spec}.{TAG}"
        download = f"{authors} (the authors' weights, a download) or " * (authors in PUBLISHED)
        raise ValueError(
            f"no weights of {spec} ship with the package: use {download}{spec}.{RANDOM} (random "
            "weights)"
        )
    if random_preset(spec):
        raise ValueError(f"{spec} names random weights, which have no file: name saved weights")
    return _from_disk(spec)


def random_preset(spec: str) -> str | None:
    """The preset of ``PRESET.random``, or None for another name."""
    name, _, tag = spec.rpartition(".")
    return name if tag == RANDOM and name in PRESETS else None


def manifest() -> dict[str, Any]:
    """The shipped weights: ``{"default": preset, "weights": {preset: {"tag", "file", ...}}}``."""
    return json.loads(_shipped().joinpath(MANIFEST).read_text("utf-8"))


def known_names() -> tuple[str, ...]:
    """Full names of all weights, shipped and published."""
    return (*map(shipped_name, manifest()["weights"]), *PUBLISHED)


def shipped_name(preset: str) -> str:
    """Full name, with its tag, of the shipped weights of a preset."""
    return f"{preset}.{manifest()['weights'][preset]['tag']}"


def _shipped() -> Any:
    return resources.files("hear_axlstm_weights")


def _from_disk(spec: str) -> Path:
    path = Path(spec).expanduser()
    if path.is_dir():
        ours = path / FILE_NAME
        path = ours if ours.is_file() else newest_in_folder(path) or newest_of_run(path) or ours
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {spec!r}: pass a name ({', '.join(known_names())}), a .safetensors or "
            f".pth file, a folder with {FILE_NAME}, a run of pretraining or of the reference "
            "release, or hf://org/repo[@revision]"
        )
    verify(path)
    return path
