"""The user's cache: its folders, and whether downloads may add to it."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "HEAR_AXLSTM_CACHE"
OFFLINE_VARIABLE = "HEAR_AXLSTM_OFFLINE"
OFF = ("", "0", "false", "no", "off")


def cache_dir() -> Path:
    """The folder HEAR_AXLSTM_CACHE, or the platform's cache folder; it may not exist yet."""
    chosen = os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("hear_axlstm")
    return Path(chosen).expanduser()


def weights_dir() -> Path:
    """The cache's folder for converted weights; it may not exist yet."""
    return cache_dir() / "weights"


def is_offline() -> bool:
    """Whether HEAR_AXLSTM_OFFLINE forbids downloads."""
    return os.environ.get(OFFLINE_VARIABLE, "").strip().lower() not in OFF
