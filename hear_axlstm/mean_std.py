"""The HEAR API with scene embeddings of mean and standard deviation over time.

For evaluation kits, which call `load_model` without options: `hear-validator hear_axlstm.mean_std`.
"""

from __future__ import annotations

import os
from typing import Any

import hear_axlstm
from hear_axlstm import Embedder, __version__, get_scene_embeddings, get_timestamp_embeddings

__all__ = ["__version__", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]


def load_model(model_file_path: str | os.PathLike[str] = "", **options: Any) -> Embedder:
    """Load a model as `hear_axlstm.load_model` does, with ``pooling="mean_std"``."""
    return hear_axlstm.load_model(model_file_path, pooling="mean_std", **options)
