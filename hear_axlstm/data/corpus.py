"""A pack on disk: memory-mapped shards of log-mel frames and the index of their clips.

A pack is a folder::

    pack.json         written last: format, mel settings, totals, fingerprint of the inputs
    index.npz         one row per clip: id, shard, offset, frames, mean, std
    report.csv        one row per file that was left out, with the reason
    shard-00000.f16   frames of many clips, one after another: little-endian float16 [sum T, F]
    shard-00000.json  that shard's clips, and the fingerprint of the files it was made from

Frames are stored as computed by the front end, not standardized: `mean` and `std` are those of the
whole clip, so that crops can be standardized like the whole clip.
Shapes: `T` mel frames, `F` mel bins.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hear_axlstm.config import MelConfig

FORMAT = 2
INFO_NAME = "pack.json"
INDEX_NAME = "index.npz"
LOCK_NAME = "pack.lock"
FRAME_DTYPE = np.dtype("<f2")
FIELD = "f16"  # extension of the files of frames
OPEN_SHARDS = 512  # a mapped file holds a descriptor, and many systems grant only 1024


class PackError(ValueError):
    """Raised if a pack can't be made or read; the message names the remedy."""


@dataclass(frozen=True)
class ClipIndex:
    """Position of each clip's frames; arrays have one entry per clip, in packing order."""

    id_bytes: NDArray[np.uint8]
    """All ids in UTF-8, concatenated: a tenth of the memory of a list of strings."""
    id_end: NDArray[np.int64]
    """Where each id ends in `id_bytes`."""
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    """Index of the first frame in the shard."""
    frames: NDArray[np.int64]
    mean: NDArray[np.float32]
    """Mean of the clip's log-mel over all frames and bins."""
    std: NDArray[np.float32]
    """Unbiased standard deviation over the same values."""

    def __len__(self) -> int:
        return len(self.shard)

    def ids(self) -> Iterator[bytes]:
        """Yield the clips' ids in UTF-8: paths below the source folder, or as in the table."""
        text, start = self.id_bytes.tobytes(), 0
        for end in self.id_end.tolist():
            yield text[start:end]
            start = end


class Corpus:
    """A finished pack, opened for reading.

    Raises:
        PackError: if the folder is not a finished pack, or its files are missing or truncated.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.info = read_info(self.folder)
        if self.info is None:
            raise PackError(
                f"{self.folder} is not a finished pack (it has no {INFO_NAME}): "
                f"make one with `axlstm pack AUDIO_FOLDER {self.folder}`"
            )
        self.mel = MelConfig(**self.info["mel"])
        self.fingerprint: str = self.info["fingerprint"]
        self.index = _read_index(self.folder)
        self._check_shards()
        self._mapped = lru_cache(maxsize=OPEN_SHARDS)(self._map_shard)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def hours(self) -> float:
        """Total duration of all clips in hours."""
        hops = int(self.index.frames.sum() - len(self))  # n samples make 1 + n // hop frames
        return hops * self.mel.hop_length / self.mel.sample_rate / 3600

    def clip(self, clip: int) -> NDArray[np.float16]:
        """All frames of a clip, [T, F], not standardized; a view of the mapped file."""
        start = self.index.offset[clip]
        frames = self.shard(int(self.index.shard[clip]))
        return frames[start : start + self.index.frames[clip]]

    def shard(self, shard: int) -> NDArray[np.float16]:
        """All frames of a shard, [sum T, F]; a view of the mapped file."""
        frames: NDArray[np.float16] = np.frombuffer(self._mapped(shard), FRAME_DTYPE)
        return frames.reshape(-1, self.mel.n_mels)

    def will_need(self, shard: int, start: int, frames: int) -> None:
        """Ask the system to prefetch these frames of a shard from disk, without waiting."""
        if hasattr(mmap, "MADV_WILLNEED"):
            width = self.mel.n_mels * FRAME_DTYPE.itemsize
            first = start * width // mmap.PAGESIZE * mmap.PAGESIZE
            self._mapped(shard).madvise(mmap.MADV_WILLNEED, first, (start + frames) * width - first)

    def shard_sizes(self) -> NDArray[np.int64]:
        """Number of frames in each shard; 0 for shards without clips."""
        sizes = np.zeros(int(self.index.shard.max()) + 1, np.int64)
        np.maximum.at(sizes, self.index.shard, self.index.offset + self.index.frames)
        return sizes

    def _map_shard(self, shard: int) -> mmap.mmap:
        if read_info(self.folder) != self.info:
            raise PackError(f"{self.folder} was packed again while it was in use: start again")
        with open(shard_path(self.folder, shard), "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if hasattr(mmap, "MADV_RANDOM"):  # otherwise each crop reads megabytes ahead
            mapped.madvise(mmap.MADV_RANDOM)
        return mapped

    def _check_shards(self) -> None:
        for shard, frames in enumerate(self.shard_sizes().tolist()):
            if not frames:
                continue
            path = shard_path(self.folder, shard)
            expected = frames * self.mel.n_mels * FRAME_DTYPE.itemsize
            size = path.stat().st_size if path.exists() else 0
            if size != expected:
                raise PackError(
                    f"{path} has {size} bytes instead of {expected}: "
                    "pack the same audio again; only damaged shards are rebuilt"
                )


def shard_path(folder: Path, shard: int) -> Path:
    """Path of a shard's frames."""
    return folder / f"shard-{shard:05d}.{FIELD}"


def is_pack(folder: Path) -> bool:
    """Whether the folder contains a pack, perhaps an unfinished one."""
    return any((folder / name).exists() for name in (INFO_NAME, LOCK_NAME))


def read_info(folder: Path) -> dict[str, Any] | None:
    """Read pack.json; None if it does not exist.

    Raises:
        PackError: if it is damaged or has another format.
    """
    path = folder / INFO_NAME
    if not path.exists():
        return None
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        if info["format"] != FORMAT:
            raise PackError(
                f"{path} has format {info['format']}, but this version reads {FORMAT}: "
                "delete the folder and pack again"
            )
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise PackError(f"{path} is damaged: delete it and pack again") from error
    return info


def _read_index(folder: Path) -> ClipIndex:
    try:
        with np.load(folder / INDEX_NAME, allow_pickle=False) as arrays:
            return ClipIndex(**arrays)
    except Exception as error:  # numpy raises zip, value, key or OS errors, depending on the damage
        raise PackError(
            f"{folder / INDEX_NAME} is unreadable: pack the same audio again"
        ) from error
