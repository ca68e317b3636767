"""The HEAR API with scene embeddings of mean and standard deviation over time.

For evaluation kits, which call `load_model` without options: `hear-validator hear_axlstm.mean_std`.
"""

from __future__ import annotations

from functools import partial

import hear_axlstm
from hear_axlstm import get_scene_embeddings, get_timestamp_embeddings

load_model = partial(hear_axlstm.load_model, pooling="mean_std")

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]
