"""Embeddings of clips, computed once: a cache that knows weights, file and span.

Shapes: D' embedding size.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hear_axlstm.audio.io import AudioError
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.embed.scenes import Span, scenes_of


def embed(embedder: Embedder, spans: Sequence[Span]) -> list[Tensor | AudioError]:
    """As `scenes_of`, but what is known from before is not computed again.

    It is known while the weights, the path, size and date of the file, and the span stay the same.

    Raises:
        ValueError: if the cache is damaged.
        OSError: if it can't be written.
    """
    keys = [_key(span) for span in spans]
    with _open(_digest(embedder)) as cache:
        found: dict[str, Tensor | AudioError] = {}
        for key in keys:
            row = cache.execute("SELECT scene FROM scenes WHERE key = ?", (key,)).fetchone()
            if row is not None:
                found[key] = torch.from_numpy(np.frombuffer(row[0], np.float32).copy())
        missing = {key: span for key, span in zip(keys, spans, strict=True) if key not in found}
        scenes = scenes_of(embedder, list(missing.values()))
        for key, scene in zip(missing, scenes, strict=True):
            found[key] = scene
            if isinstance(scene, Tensor):
                with cache:  # commits: an interruption loses nothing
                    row = key, scene.numpy().tobytes()
                    cache.execute("INSERT OR REPLACE INTO scenes VALUES (?, ?)", row)
    return [found[key] for key in keys]


@contextmanager
def _open(digest: str) -> Iterator[sqlite3.Connection]:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "hear_axlstm"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"scenes-{digest}.sqlite"
    try:
        with closing(sqlite3.connect(file, timeout=60)) as cache:
            cache.execute("CREATE TABLE IF NOT EXISTS scenes (key TEXT PRIMARY KEY, scene BLOB)")
            yield cache
    except sqlite3.OperationalError as error:  # locked, no space, no permission
        raise OSError(f"can't use {file} ({error}): make room, or set XDG_CACHE_HOME") from error
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{file} is damaged ({error}): delete it") from error


def _key(span: Span) -> str:
    file = span.path.stat()
    stamp = [str(span.path.resolve()), file.st_size, file.st_mtime_ns]
    return json.dumps([*stamp, span.start, span.end])


def _digest(embedder: Embedder) -> str:
    """Of everything that an embedding depends on besides the clip."""
    settings = [version("hear_axlstm"), embedder.config.to_dict()]
    known = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in embedder.encoder.state_dict().items():
        known.update(name.encode())
        known.update(tensor.cpu().contiguous().numpy().tobytes())
    return known.hexdigest()[:16]
