"""Encoding of clips of any length as time steps and scenes: log-mel, windows, encoder.

Shapes: B clips, n samples, T mel frames, F mel bins, W windows of 2 s, J time steps of 40 ms
(for patches of 4 frames), D model width, D' = D x frequency patches, the embedding size.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from hear_axlstm.audio.mel import LogMel, Statistics, standardize
from hear_axlstm.config import ModelConfig
from hear_axlstm.embed.fused import FusedEncoder
from hear_axlstm.embed.pooling import WindowPooling
from hear_axlstm.embed.windows import Budget, Window, batches, cut
from hear_axlstm.models.encoder import Encoder
from hear_axlstm.ops.cores import on_each_core, thread_count, without_torch_threads
from hear_axlstm.ops.precision import Precision, autocast_to, product_dtype
from hear_axlstm.ops.tracing import check_storage, is_traced

R = TypeVar("R")
Encode = Callable[[list[Tensor], Statistics | None], R]


class ClipEncoder(nn.Module):
    """Log-mel front end and encoder, with fused weights for inference on a CPU.

    Args:
        config: settings of the model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.mel = LogMel(config.mel)
        self.encoder = Encoder(config)
        self._precision: Precision = "float32"

    @property
    def precision(self) -> Precision:
        """Data type of the large matrix products."""
        return self._precision

    @precision.setter
    def precision(self, precision: Precision) -> None:
        dtype = product_dtype(precision, self.device)  # raises if unknown
        self._precision = precision
        if self.encoder.fused is not None and self.encoder.fused.dtype != dtype:
            self.fuse()

    def fuse(self) -> Self:
        """Fuse the weights for fast inference on a CPU, in evaluation mode; returns the model.

        `load_model` calls this. Embeddings stay the same, but gradients are not available. Later
        changes to the weights have no effect until `fuse` is called again. `train`, `unfuse`,
        loading weights into the model, and moving it to another device or dtype drop the fused
        weights.

        Raises:
            ValueError: if the model is not on a CPU or not float32, or has hooks, or blocks with
                replaced parts.
        """
        self.check_dtype()
        if self.device.type != "cpu":
            raise ValueError(f"the model is on {self.device}: fused weights are for a CPU")
        self.eval()
        self.encoder.fused = FusedEncoder(self.encoder, product_dtype(self.precision, self.device))
        return self

    def infer(self) -> Self:
        """Switch to evaluation mode, with fused weights on a CPU; returns the model."""
        return self.fuse() if self.device.type == "cpu" else self.eval()

    def unfuse(self) -> Self:
        """Drop the fused weights, so that gradients are available; returns the model."""
        self.encoder.fused = None
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "is_fused": self.encoder.fused is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        is_fused = state.pop("is_fused")
        super().__setstate__(state)
        if is_fused:
            self.infer()  # perhaps on another device

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.encoder.cls_token.device

    def check_dtype(self) -> None:
        """Raise unless the model is in float32."""
        dtype = self.encoder.cls_token.dtype
        if dtype != torch.float32:
            raise ValueError(
                f"the model is {dtype}: keep it in float32 (model.float()), and for faster "
                "products set model.precision = 'bfloat16'"
            )

    def digest(self) -> str:
        """Hash of the encoder's weights."""
        hashed = hashlib.sha256()
        for tensor in self.encoder.state_dict().values():
            hashed.update(tensor.cpu().contiguous().numpy().data)
        return hashed.hexdigest()

    def encode_scenes(
        self, audio: Iterable[Tensor], statistics: Statistics | None = None
    ) -> Tensor:
        """Scene embeddings of clips ``[n]`` of any lengths, float32 ``[B, D']``."""
        return self._sharing_cores(self._scenes, list(audio), statistics)

    def encode_steps(
        self, audio: Iterable[Tensor], statistics: Statistics | None = None
    ) -> list[Tensor]:
        """All time steps of clips ``[n]`` of any lengths, each float32 ``[J, D']``.

        The center of a clip's last step may be past its end, see `step_times`.
        """
        return self._sharing_cores(self._steps, list(audio), statistics)

    def _sharing_cores(
        self, encode: Encode[R], clips: list[Tensor], statistics: Statistics | None
    ) -> R:
        """Encode clips; with compiled blocks, in a thread that shares its work itself."""
        fused = self.encoder.fused
        if fused is None or not fused.is_compiled or any(map(is_traced, clips)):
            return encode(clips, statistics)
        for clip in clips:
            check_storage(clip, "audio")  # transforms of torch.func are local to a thread
        return without_torch_threads(lambda: encode(clips, statistics))

    def _scenes(self, clips: list[Tensor], statistics: Statistics | None) -> Tensor:
        pooling = WindowPooling(self.config.pooling)
        for batch, steps_WJD in self._encoded_batches(clips, statistics):
            counts = [window.steps(self.config.patch[0]) for window in batch]
            pooling.add([window.clip for window in batch], counts, steps_WJD)
        return pooling.scenes()

    def _steps(self, clips: list[Tensor], statistics: Statistics | None) -> list[Tensor]:
        parts: dict[int, list[Tensor]] = defaultdict(list)
        for batch, steps_WJD in self._encoded_batches(clips, statistics):
            for window, steps_JD in zip(batch, steps_WJD, strict=True):
                parts[window.clip].append(steps_JD[: window.steps(self.config.patch[0])])
        return [torch.cat(parts[clip]) for clip in range(len(parts))]

    def _encoded_batches(
        self, clips: Sequence[Tensor], statistics: Statistics | None
    ) -> Iterator[tuple[list[Window], Tensor]]:
        """Yield the windows of all clips in batches, with their time steps ``[W, J, D']``."""
        log_mels = self._log_mels(clips, statistics)
        width = self.config.window_frames
        # A causal encoder is not affected by padding at the end, so it is left out, unless rows
        # mix early and late tokens.
        alone = self.encoder.causal and self.config.layout == "time"
        multiple = self.config.patch[0] if alone else width
        budget = Budget.of(self.device).frames
        for batch in batches([len(mel) for mel in log_mels], width, multiple, budget):
            yield batch, self._encode_windows(cut(log_mels, batch))

    def _log_mels(self, clips: Sequence[Tensor], statistics: Statistics | None) -> list[Tensor]:
        """Standardized log-mel ``[T, F]`` of each clip; clips of equal length form a batch."""
        self.check_dtype()
        same: dict[int, list[int]] = defaultdict(list)
        for index, clip in enumerate(clips):
            same[len(clip)].append(index)
        log_mels: dict[int, Tensor] = {}
        for members in same.values():
            waveforms = torch.stack([clips[index] for index in members]).float()
            log_mel_BTF = self._log_mel_batch(waveforms)
            log_mels.update(zip(members, standardize(log_mel_BTF, statistics), strict=True))
        return [log_mels[index] for index in range(len(clips))]

    def _log_mel_batch(self, waveforms_Bn: Tensor) -> Tensor:
        if self.encoder.fused is None or is_traced(waveforms_Bn):
            return self.mel(waveforms_Bn)
        return torch.cat(on_each_core(self.mel, waveforms_Bn.chunk(thread_count())))

    def _encode_windows(self, windows: Tensor) -> Tensor:
        """Encode windows ``[W, T, F]`` to time steps ``[W, T / 4, D']``."""
        self.encoder.refuse_gradients(windows)
        if self.encoder.fused is not None and not is_traced(windows):
            with autocast_to(torch.float32, windows.device):  # overrides the caller's
                tokens = self.encoder.fused(windows)
        else:
            with autocast_to(product_dtype(self.precision, windows.device), windows.device):
                tokens = self.encoder(windows)[:, 1:].float()
        bands = self.config.grid[1]
        if self.config.layout == "release":
            return tokens.unflatten(1, (bands, -1)).transpose(1, 2).flatten(2)
        return tokens.unflatten(1, (-1, bands)).flatten(2)
