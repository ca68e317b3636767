"""A module with the HEAR API: embeddings of a batch, and checks of its output.

Shapes: B clips, n samples, T time steps, D embedding size.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hearbench.errors import HearbenchError
from hearbench.systems.fingerprint import Fingerprint, check_unchanged
from hearbench.systems.specs import System, load_system
from hearbench.tasks.audio import Clip

Rows = NDArray[Any]
COVERED = 0.5  # minimum share of a clip that its time steps cover


class EmbeddingError(HearbenchError, ValueError):
    """Raised for a model's output that no probe can be trained on."""


class HearModel:
    """The model of a system.

    Args:
        system: the system.
        fingerprint: what it must still have; None for any.
        device: device of a torch module; by default the GPU if there is one.

    Raises:
        SystemSpecError: if it can't be loaded, or has another fingerprint.
        EmbeddingError: if it is a model of neither torch nor TensorFlow.
    """

    def __init__(
        self, system: System, fingerprint: Fingerprint | None = None, device: str | None = None
    ) -> None:
        self.module: Any
        self.module, self.model = load_system(system)
        if fingerprint is not None:
            check_unchanged(system, self.module, self.model, fingerprint)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.tensorflow: Any = None
        if isinstance(self.model, torch.nn.Module):
            self.model.to(self.device)
            return
        self.device = "cpu"  # TensorFlow places its computation itself
        self.tensorflow = sys.modules.get("tensorflow")
        if self.tensorflow is None or not isinstance(self.model, self.tensorflow.Module):
            kind = type(self.model).__name__
            raise EmbeddingError(
                f"{self.name}.load_model returns a {kind}: the HEAR API requires a torch.nn.Module "
                "or a tensorflow.Module"
            )

    @property
    def name(self) -> str:
        """Import name of the module."""
        return self.module.__name__

    @property
    def sample_rate(self) -> int:
        """Sample rate of the model's input."""
        return self.model.sample_rate

    def scenes(self, audio_Bn: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute one embedding per clip, [B, D]."""
        with torch.no_grad():
            return _float32(self.module.get_scene_embeddings(self._tensor(audio_Bn), self.model))

    def timestamps(self, audio_Bn: NDArray[np.float32]) -> tuple[NDArray[np.float32], Rows]:
        """Compute embeddings [B, T, D] and their times [B, T] in ms."""
        with torch.no_grad():
            rows, times = self.module.get_timestamp_embeddings(self._tensor(audio_Bn), self.model)
        return _float32(rows), _numpy(times)

    def _tensor(self, audio_Bn: NDArray[np.float32]) -> Any:
        if self.tensorflow is not None:
            return self.tensorflow.convert_to_tensor(audio_Bn)
        return torch.from_numpy(audio_Bn).to(self.device)


def _float32(tensor: Any) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # `check_output` reports infinity
        return _numpy(tensor).astype(np.float32, copy=False)


def _numpy(tensor: Any) -> Rows:
    if not isinstance(tensor, torch.Tensor):
        return np.asarray(tensor)
    # NumPy has no bfloat16
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().cpu().numpy()


def check_output(
    name: str, sample_rate: int, clips: Sequence[Clip], rows: Rows, times_BT: Rows | None
) -> None:
    """Raise unless embeddings are finite and one per clip, and times plausible in ms.

    Args:
        name: name of the module.
        sample_rate: sample rate of the clips, in Hz.
        clips: the batch, all of one length.
        rows: embeddings [B, D], or [B, T, D] if there are times.
        times_BT: times of the steps; None for scene embeddings.

    Raises:
        EmbeddingError: naming the module, the clip and the output.
    """
    dims, wanted = (2, "D") if times_BT is None else (3, "T, D")
    if rows.ndim != dims or len(rows) != len(clips):
        raise EmbeddingError(
            f"{name} returns {list(rows.shape)} for {len(clips)} clips, not "
            f"[{len(clips)}, {wanted}]"
        )
    if times_BT is not None and times_BT.shape != rows.shape[:2]:
        raise EmbeddingError(
            f"{name} returns {list(times_BT.shape)} times for {list(rows.shape)} embeddings"
        )
    finite = np.isfinite(rows).reshape(len(clips), -1).all(axis=1)
    if not finite.all():
        clip = clips[int(finite.argmin())]
        raise EmbeddingError(
            f"{name} returns NaN, infinity or values beyond float32 for {clip.path}: check that "
            "file, or leave the system out"
        )
    for clip, times_T in zip(clips, times_BT if times_BT is not None else (), strict=False):
        milliseconds = 1000 * clip.samples / sample_rate
        if reason := _fault_of_times(times_T, milliseconds):
            found = f"{len(times_T)} from {times_T[0]:g} to {times_T[-1]:g}" if len(times_T) else 0
            raise EmbeddingError(
                f"{name}: its timestamps for {clip.path}, which lasts {milliseconds:g} ms, "
                f"{reason} ({found}): the HEAR API requires the center of each embedding in "
                "milliseconds, ascending"
            )
        if len(times_T) < 2 and clip.split != "train":
            raise EmbeddingError(
                f"{name} returns a single time step for {clip.path}, which lasts {milliseconds:g} "
                "ms: heareval needs two or more to find events; leave out the system or the task"
            )


def _fault_of_times(times_T: Rows, milliseconds: float) -> str:
    """Describe the fault in the times of a clip of this duration; empty if there is none."""
    if not len(times_T):
        return "are missing"
    if not np.isfinite(times_T).all():
        return "contain NaN or infinity"
    gaps = np.diff(times_T.astype(np.float64))
    if (gaps <= 0).any():
        return "do not ascend"
    step = gaps.max() if len(gaps) else 0.0  # padding may put a center outside by one step
    if times_T[0] < -step or times_T[-1] > milliseconds + step:
        return "are outside it"
    if len(gaps) and times_T[-1] - times_T[0] + 2 * step < COVERED * milliseconds:
        return "cover too little of it to be in milliseconds"
    return ""
