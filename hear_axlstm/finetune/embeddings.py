"""Embeddings of clips, computed once: a cache that knows weights, file and span.

Shapes: D' embedding size.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Sequence
from contextlib import ExitStack, closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hear_axlstm.audio.listing import Skipped
from hear_axlstm.audio.sources import AudioClip
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.embed.files import scenes_of

log = logging.getLogger(__name__)

REMEDY = "make room, or set XDG_CACHE_HOME to a folder that can be written"


def embed(embedder: Embedder, clips: Sequence[AudioClip]) -> list[Tensor | Skipped]:
    """As `scenes_of`, but what is known from before is not computed again.

    It is known while the weights, the path, size and date of the file, and the span stay the same.
    A cache that can't be used is named in a warning, and everything is computed.
    """
    keys = [_key(clip) for clip in clips]
    found: dict[str, Tensor | Skipped] = {}
    with ExitStack() as stack:
        cache = _open(_digest(embedder), stack)
        for key in keys if cache else ():
            row = cache.execute("SELECT scene FROM scenes WHERE key = ?", (key,)).fetchone()
            if row is not None:
                found[key] = torch.from_numpy(np.frombuffer(row[0], np.float32).copy())
        missing = {key: clip for key, clip in zip(keys, clips, strict=True) if key not in found}
        scenes = scenes_of(embedder, list(missing.values()))
        for key, (_, scene) in zip(missing, scenes, strict=True):
            found[key] = scene
            if cache and isinstance(scene, Tensor):
                try:
                    with cache:  # commits: an interruption loses nothing
                        row = key, scene.numpy().tobytes()
                        cache.execute("INSERT OR REPLACE INTO scenes VALUES (?, ?)", row)
                except sqlite3.Error as error:
                    log.warning("embeddings are no longer cached (%s): %s", error, REMEDY)
                    cache = None
    return [found[key] for key in keys]


def _open(digest: str, stack: ExitStack) -> Any:
    """A connection to the cache; None, with a warning, if it can't be used."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "hear_axlstm"
    file = folder / f"scenes-{digest}.sqlite"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        cache = stack.enter_context(closing(sqlite3.connect(file, timeout=60)))
        cache.execute("CREATE TABLE IF NOT EXISTS scenes (key TEXT PRIMARY KEY, scene BLOB)")
    except sqlite3.DatabaseError as error:
        if not isinstance(error, sqlite3.OperationalError):
            log.warning("no embeddings are cached: %s is damaged (%s): delete it", file, error)
            return None
        log.warning("no embeddings are cached: can't use %s (%s): %s", file, error, REMEDY)
        return None
    except OSError as error:
        log.warning("no embeddings are cached: can't write %s (%s): %s", folder, error, REMEDY)
        return None
    return cache


def _key(clip: AudioClip) -> str:
    path = Path(str(clip.source))
    file = path.stat()
    stamp = [str(path.resolve()), file.st_size, file.st_mtime_ns]
    return json.dumps([*stamp, clip.start, clip.end])


def _digest(embedder: Embedder) -> str:
    """A hash of everything that an embedding depends on besides the clip."""
    settings = [version("hear_axlstm"), embedder.config.to_dict()]
    known = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in embedder.encoder.state_dict().items():
        known.update(name.encode())
        known.update(tensor.cpu().contiguous().numpy().tobytes())
    return known.hexdigest()[:16]
