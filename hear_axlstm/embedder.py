"""The HEAR model: waveforms of any length to timestamp and scene embeddings.

Shapes: B clips, n samples, T mel frames, F mel bins, W windows of 2 s, J time steps of 40 ms
(for patches of 4 frames), D model width, D' = D x frequency patches, the embedding size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hear_axlstm.config import ModelConfig
from hear_axlstm.encoder import Encoder
from hear_axlstm.inference import encode_windows
from hear_axlstm.mel import LogMel, standardize
from hear_axlstm.precision import Precision, product_dtype

# Mel frames encoded at once: bounds memory, whatever the length.
FRAMES_PER_PASS = {"cpu": 12_800, "cuda": 51_200}
MAX_AMPLITUDE = 1e15  # the power of louder samples overflows float32


class Embedder(nn.Module):
    """Log-mel front end and encoder behind the attributes that the HEAR API asks for.

    Attributes:
        precision: of the large matrix products, "float32", "bfloat16", or "auto": bfloat16 where
            the hardware multiplies in it. Embeddings are float32 in any case.
        sample_rate: in Hz, of the audio that it takes.
        scene_embedding_size, timestamp_embedding_size: D'.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.mel = LogMel(config.mel)
        self.encoder = Encoder(config)
        self.precision: Precision = "float32"
        self.sample_rate = config.mel.sample_rate
        self.scene_embedding_size = config.embedding_size
        self.timestamp_embedding_size = config.embedding_size

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Timestamp embeddings and their times, as in `hear_axlstm.get_timestamp_embeddings`.

        Each is centered on its 4 mel frames. A last step whose center lies past the end of the
        clip is dropped, unless it is the only one: then it is placed in the clip's middle.

        Args:
            audio: float ``[B, n]`` in -1..1 at ``sample_rate``, on the model's device.

        Returns:
            float32 ``[B, J, D']``, and the times in ms, float32 ``[B, J]``.
        """
        steps_BJD = torch.cat(list(self._passes(audio)), dim=1)
        rate, patch_frames = self.sample_rate, self.config.patch[0]
        hop_ms = 1000.0 * self.config.mel.hop_length / rate
        end_ms = 1000.0 * audio.shape[1] / rate
        index = torch.arange(steps_BJD.shape[1], dtype=torch.float64)
        centers = (index * patch_frames + (patch_frames - 1) / 2) * hop_ms
        centers = centers[centers <= end_ms]
        if len(centers) == 0:
            centers = torch.tensor([end_ms / 2])
        timestamps = centers.float().to(steps_BJD.device).expand(len(audio), -1)
        return steps_BJD[:, : len(centers)], timestamps.contiguous()

    def scene(self, audio: Tensor) -> Tensor:
        """Scene embeddings: the mean over all time steps (paper section 3.2).

        Args:
            audio: float ``[B, n]`` in -1..1 at ``sample_rate``, on the model's device.

        Returns:
            float32 ``[B, D']``.
        """
        sums, steps = [], 0
        for steps_BJD in self._passes(audio):
            sums.append(steps_BJD.sum(1))
            steps += steps_BJD.shape[1]
        return torch.stack(sums).sum(0) / steps

    def _passes(self, audio: Tensor) -> Iterator[Tensor]:
        """The time steps of the clips, ``[B, J, D']``, some windows of every clip after another."""
        _check_audio(audio, self.encoder.cls_token.device)
        log_mel_BTF = standardize(self.mel(audio.float()))
        clips, frames = log_mel_BTF.shape[:2]
        width = self.config.window_frames
        budget = FRAMES_PER_PASS.get(audio.device.type, FRAMES_PER_PASS["cpu"])
        at_once = max(1, budget // (clips * width)) * width
        whole = frames // width * width
        for part in log_mel_BTF[:, :whole].split(at_once, dim=1) if whole else ():
            windows = part.unflatten(1, (-1, width)).flatten(0, 1)
            yield self._encode(windows).unflatten(0, (clips, -1)).flatten(1, 2)
        if whole < frames:
            # A causal encoder never looks at the padding that follows: it is left out, unless
            # rows mix early and late tokens.
            alone = self.config.causal and self.config.layout == "time"
            multiple = self.config.patch[0] if alone else width
            padding = -(frames - whole) % multiple
            tail = nn.functional.pad(log_mel_BTF[:, whole:], (0, 0, 0, padding))
            yield self._encode(tail)[:, : math.ceil((frames - whole) / self.config.patch[0])]

    def _encode(self, windows: Tensor) -> Tensor:
        """Windows ``[B W, T, F]`` to the steps of each, ``[B W, T / 4, D']``."""
        dtype = product_dtype(self.precision, windows.device)
        if windows.device.type == "cpu" and not torch.is_grad_enabled():
            tokens = encode_windows(self.encoder, windows, dtype)
        else:
            lower = dtype != torch.float32
            with torch.autocast(windows.device.type, dtype, enabled=lower):
                tokens = self.encoder(windows)[:, 1:].float()
        bands = self.config.grid[1]
        if self.config.layout == "release":
            return tokens.unflatten(1, (bands, -1)).transpose(1, 2).flatten(2)
        return tokens.unflatten(1, (-1, bands)).flatten(2)


def _check_audio(audio: Tensor, device: torch.device) -> None:
    if not isinstance(audio, Tensor):
        raise TypeError(f"audio is a {type(audio).__name__}: pass a torch.Tensor [clips, samples]")
    if audio.ndim != 2:
        raise ValueError(
            f"audio has shape {tuple(audio.shape)}: pass [clips, samples]; for one mono clip use "
            "audio[None], for several channels average them first"
        )
    if audio.numel() == 0:
        raise ValueError(f"audio of shape {tuple(audio.shape)} holds no sample: pass at least one")
    if not audio.is_floating_point():
        raise TypeError(
            f"audio is {audio.dtype}: pass real floating-point samples in -1..1 "
            "(16-bit integers: audio / 32768)"
        )
    if audio.device != device:
        raise ValueError(
            f"audio is on {audio.device}, the model on {device}: move one to the other"
        )
    peak = audio.abs().amax().item()
    if not peak <= MAX_AMPLITUDE:  # also catches NaN
        raise ValueError(
            f"audio has a sample of magnitude {peak}: remove NaN and infinite samples, "
            "and scale to -1..1"
        )
