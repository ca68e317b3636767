"""The list of the authors' weights, and their files in the user's cache.

For each name the cache contains ``NAME.safetensors``, converted from a checkpoint, and
``NAME.sha256``, the checksum of that checkpoint, with which later downloads are compared.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from hear_axlstm.checkpoints.cache import weights_dir

TAG = "audioset"


@dataclass(frozen=True)
class Published:
    """Weights that their authors publish as a run in a public Google Drive folder."""

    preset: str
    """Preset with the sizes of the weights."""
    run: str
    """Folder of the run; if it is missing, another one with the same prefix is used."""
    folder: str = "1SyNvA7a6jrWmRwYYj85ggADiKBpDpGLK"
    """Id of the Drive folder, which https://github.com/SarthakYadav/axlstm-official links to."""
    license: str = "MIT"
    trained_on: str = "AudioSet, 100 epochs"

    @property
    def name(self) -> str:
        """Name for `load_model`, ``PRESET.TAG``."""
        return f"{self.preset}.{TAG}"

    @property
    def prefix(self) -> str:
        """Common prefix of the names of all runs of these weights."""
        return f"{self.preset}_200_16x4"

    @property
    def page(self) -> str:
        """URL of the folder, for a browser."""
        return f"https://drive.google.com/drive/folders/{self.folder}"

    @property
    def path(self) -> Path:
        """Path of the converted weights, which may not exist yet."""
        return weights_dir() / f"{self.name}.safetensors"

    @property
    def record(self) -> Path:
        """Path of the checkpoint's checksum, in the format of `sha256sum`."""
        return weights_dir() / f"{self.name}.sha256"

    @property
    def downloads(self) -> Path:
        """Folder for downloads, complete or partial."""
        return weights_dir() / f"{self.name}.download"

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
"""All weights that can be downloaded, by name."""


def remove(weights: Published) -> bool:
    """Delete cached weights and partial downloads; the record of the checksum is kept.

    Returns:
        Whether anything was deleted.
    """
    there = weights.path.exists() or weights.downloads.exists()
    weights.path.unlink(missing_ok=True)
    shutil.rmtree(weights.downloads, ignore_errors=True)
    return there
