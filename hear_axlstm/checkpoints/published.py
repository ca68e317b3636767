"""The authors' weights: which there are, and the user's cache that holds them.

The cache is ``weights`` in the folder HEAR_AXLSTM_CACHE, or in the platform's cache folder. It
holds, for each name, ``NAME.safetensors`` once a checkpoint was fetched and converted, and
``NAME.sha256``, the checksum of that checkpoint, which a later download is compared with.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "HEAR_AXLSTM_CACHE"
OFFLINE_VARIABLE = "HEAR_AXLSTM_OFFLINE"
OFF = ("", "0", "false", "no", "off")
TAG = "audioset"


@dataclass(frozen=True)
class Published:
    """Weights that their authors publish as a run in a public Google Drive folder."""

    preset: str
    """Preset whose sizes the weights have."""
    run: str
    """Folder of the run. Where it is missing, another one with the same prefix is taken."""
    folder: str = "1SyNvA7a6jrWmRwYYj85ggADiKBpDpGLK"
    """Id of the Drive folder."""
    license: str = "MIT"
    trained_on: str = "AudioSet, 100 epochs"
    source: str = "https://github.com/SarthakYadav/axlstm-official"
    """Repository whose README links to the folder."""

    @property
    def name(self) -> str:
        """What `load_model` takes, ``PRESET.TAG``."""
        return f"{self.preset}.{TAG}"

    @property
    def prefix(self) -> str:
        """What the names of all runs of these weights begin with."""
        return f"{self.preset}_200_16x4"

    @property
    def page(self) -> str:
        """Address of the folder, for a browser."""
        return f"https://drive.google.com/drive/folders/{self.folder}"

    @property
    def path(self) -> Path:
        """Where the converted weights are, or will be."""
        return cache() / f"{self.name}.safetensors"

    @property
    def record(self) -> Path:
        """Checksum of the checkpoint that was converted, as `sha256sum` writes it."""
        return cache() / f"{self.name}.sha256"

    @property
    def downloads(self) -> Path:
        """Folder for a checkpoint on its way, complete or not."""
        return cache() / f"{self.name}.download"

    @property
    def remedy(self) -> str:
        """How to get the weights with a browser."""
        return (
            f"download {self.run} from {self.page} with a browser and run "
            f"`axlstm weights get {self.name} --from FOLDER`"
        )


PUBLISHED = {
    weights.name: weights
    for weights in (
        Published("axlstm_tiny", "axlstm_tiny_200_16x4_4x256_fp16_r1"),
        Published("axlstm_small", "axlstm_small_200_16x4_4x256_fp16_r1"),
        Published("axlstm_base", "axlstm_base_200_16x4_8x128_fp16_r1"),
        Published("ssast_tiny", "ssast_tiny_200_16x4_4x256_fp16_r1"),
        Published("ssast_small", "ssast_small_200_16x4_4x256_fp16_r1"),
        Published("ssast_base", "ssast_base_200_16x4_4x256_fp16_r1"),
    )
}
"""The one table of what can be downloaded, by name."""


def cache() -> Path:
    """The user's folder for converted weights; it may not exist yet."""
    chosen = os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("hear_axlstm")
    return Path(chosen).expanduser() / "weights"


def is_offline() -> bool:
    """Whether HEAR_AXLSTM_OFFLINE forbids downloads."""
    return os.environ.get(OFFLINE_VARIABLE, "").strip().lower() not in OFF


def remove(weights: Published) -> bool:
    """Delete what the cache holds of some weights, but for the record of their checksum.

    Returns:
        Whether there was anything.
    """
    there = weights.path.exists() or weights.downloads.exists()
    weights.path.unlink(missing_ok=True)
    shutil.rmtree(weights.downloads, ignore_errors=True)
    return there
