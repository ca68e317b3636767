"""File cache of clip embeddings, keyed by weights, file and span.

Shapes: D' embedding size.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.audio.skipped import Skipped
from hear_axlstm.checkpoints.cache import CACHE_VARIABLE, cache_dir
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.embed.scenes import iter_scenes
from hear_axlstm.files import remove_leftovers, replacing

log = logging.getLogger(__name__)


def cached_scenes(embedder: Embedder, clips: Sequence[AudioClip]) -> list[Tensor | Skipped]:
    """Scene embedding ``[D']`` of each clip, from the cache if possible, or the reason it has none.

    A cached embedding is used if the weights, the file's path, size and date, and the span are
    unchanged. If the cache can't be written, embeddings are computed each time, with a warning.
    """
    folder = cache_dir() / f"scenes-{embedder.fingerprint()}"
    files = [folder / f"{_key(clip)}.npy" for clip in clips]
    found: list[Tensor | Skipped | None] = [_read(file) for file in files]
    can_write = True
    remove_leftovers(folder)
    missing = [index for index, scene in enumerate(found) if scene is None]
    scenes = iter_scenes(embedder, [clips[index] for index in missing])
    for index, (_, scene) in zip(missing, scenes, strict=True):
        found[index] = scene
        if isinstance(scene, Tensor) and can_write:
            can_write = _write(files[index], scene)
    return [scene for scene in found if scene is not None]


def _read(file: Path) -> Tensor | None:
    try:
        return torch.from_numpy(np.load(file))
    except (OSError, ValueError, EOFError):  # missing or damaged: computed again
        return None


def _write(file: Path, scene: Tensor) -> bool:
    """Write an embedding; False, with a warning, if the cache can't be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file, can_be_lost=True) as partial, open(partial, "wb") as stream:
            np.save(stream, scene.numpy())
        return True
    except OSError as error:
        log.warning(
            "embeddings are not cached (%s): set %s to a usable folder", error, CACHE_VARIABLE
        )
        return False


def _key(clip: AudioClip) -> str:
    path = Path(str(clip.source))
    file = path.stat()
    stamp = [str(path.resolve()), file.st_size, file.st_mtime_ns, clip.start, clip.end]
    return hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:32]
