"""Streaming embeddings of live audio: mel, convolution and cell continue from their states.

The result equals that of whole clips standardized with the same fixed statistics. A step is
complete when its last mel frame is, 12.5 ms after that frame's center.

Shapes: n samples, T mel frames, F mel bins, J time steps, D' embedding size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as nnf

from hear_axlstm.audio.mel import LogMel, Statistics, frame_count, standardize
from hear_axlstm.embed.fused import FusedEncoder
from hear_axlstm.embed.fused_block import FusedMLSTM, StreamState
from hear_axlstm.embed.inputs import check_clip
from hear_axlstm.embed.windows import step_centers, step_times
from hear_axlstm.models.encoder import Encoder
from hear_axlstm.ops.backends import packed_for_few
from hear_axlstm.ops.cores import without_torch_threads
from hear_axlstm.ops.precision import Precision, autocast_to, product_dtype
from hear_axlstm.ops.workspace import Workspace

BLOCK_SECONDS = 2.0  # a longer push is processed in parts, to bound memory
A = TypeVar("A", NDArray, Tensor)
Pair: TypeAlias = tuple[Any, Any]  # of arrays or of tensors


class Stream:
    """Stream of live audio that returns timestamp embeddings; created by `Embedder.stream`.

    Memory use is constant. The state is reset every 2 s, at the same windows as in whole clips.

    Args:
        encoder: encoder of a causal model; later changes to its weights have no effect.
        mel: the front end.
        statistics: mean and standard deviation used to standardize the log-mel.
        precision: as in `Embedder`.

    Raises:
        ValueError: for an encoder whose steps depend on later ones, with modified blocks, or
            whose mel frames overlap by half or less.
    """

    @torch.no_grad()
    def __init__(
        self, encoder: Encoder, mel: LogMel, statistics: Statistics, precision: Precision
    ) -> None:
        config = encoder.config
        if not encoder.causal:
            what = "a model with flip=True" if config.flip else config.architecture
            raise ValueError(
                f"{what} can't embed a stream, because its steps depend on later ones: use an "
                "axlstm preset without flip, or embed_timestamps(...) once the clip is complete"
            )
        if config.layout != "time":
            raise ValueError(
                f"layout={config.layout!r} can't embed a stream, because its rows mix early and "
                "late steps: load the model with layout='time'"
            )
        if 2 * config.mel.hop_length >= config.mel.n_fft:
            raise ValueError(
                f"hop_length={config.mel.hop_length} can't embed a stream, because it is not less "
                f"than half of n_fft={config.mel.n_fft}: use embed_timestamps(...) once the clip "
                "is complete"
            )
        self._mel, self._statistics = copy.deepcopy(mel), statistics
        self._config = config
        self._device = encoder.cls_token.device
        self._fused = FusedEncoder(encoder, product_dtype(precision, self._device), packed_for_few)
        self._blocks = [block for block in self._fused.blocks if isinstance(block, FusedMLSTM)]
        if len(self._blocks) < len(encoder.blocks):
            raise ValueError(
                f"{config.architecture!r} can't embed a stream, because its blocks have no state "
                "to continue from: use embed_timestamps(...) once the clip is complete"
            )
        self._workspace = Workspace()
        self._numpy = True
        self._begin()

    def _begin(self) -> None:
        self._count = 0  # samples so far
        self._samples = torch.zeros(
            0, device=self._device, dtype=torch.float32
        )  # from the first sample of the next frame
        self._is_reflected = False  # whether the start has been reflected
        self._done_frames = 0
        self._frames_TF = self._samples.new_zeros(0, self._config.mel.n_mels)
        self._done_steps = 0
        self._states: list[StreamState] = []

    @torch.no_grad()
    def push(self, samples: A) -> tuple[A, A]:
        """Process the next samples and return the time steps that they complete.

        Args:
            samples: float ``[n]`` in -1..1 at the model's rate, of any length.

        Returns:
            Completed time steps, float32 ``[J, D']``, and their centers in ms from the first
            sample, float32 ``[J]``; J may be 0. Arrays if arrays were passed, tensors if tensors.

        Raises:
            TypeError, ValueError: for samples of another type or shape, or non-finite ones.
        """
        self._numpy = not isinstance(samples, Tensor)
        new = check_clip(samples, "samples", self._device)
        first, found = self._done_steps, []
        for part in new.split(round(BLOCK_SECONDS * self._config.mel.sample_rate)):
            self._count += len(part)
            self._samples = torch.cat([self._samples, part])
            found.append(self._in_one_thread(lambda: self._advance(self._new_frames())))
        centers = step_centers(first, self._done_steps, self._config).float()
        return self._answer(found, centers)

    @torch.no_grad()
    def finish(self) -> Pair:
        """End the stream and return the remaining steps, as `push` does.

        As in whole clips, a last step whose center is past the end is dropped, unless it is the
        only one. The next `push` starts a new stream.
        """
        config, first = self._config, self._done_steps
        found = []
        if self._count:
            edge = config.mel.n_fft // 2
            self._samples = nnf.pad(self._samples, (0, max(0, edge + 1 - self._count)))
            self._reflect_beginning()
            after = self._samples[-edge - 1 : -1].flip(0)
            self._samples = torch.cat([self._samples, after])
            left = frame_count(self._count, config.mel) - self._done_frames
            frames_TF = self._new_frames()[:left]
            padding = -(len(self._frames_TF) + len(frames_TF)) % config.patch[0]
            frames_TF = nnf.pad(frames_TF, (0, 0, 0, padding))
            found.append(self._in_one_thread(lambda: self._advance(frames_TF)))
        none = torch.zeros(0, dtype=torch.float32, device="cpu")
        times = step_times(self._count, config)[first:] if self._count else none
        answer = self._answer(found, times)
        self._begin()
        return answer

    def _reflect_beginning(self) -> None:
        edge = self._config.mel.n_fft // 2
        if not self._is_reflected and len(self._samples) > edge:
            before = self._samples[1 : edge + 1].flip(0)
            self._samples = torch.cat([before, self._samples])
            self._is_reflected = True

    def _new_frames(self) -> Tensor:
        """Remove completed frames from the samples; return their standardized mel ``[T, F]``."""
        size, hop = self._config.mel.n_fft, self._config.mel.hop_length
        self._reflect_beginning()
        if not self._is_reflected or len(self._samples) < size:
            return self._frames_TF[:0]
        frames_Tn = self._samples.unfold(0, size, hop)
        log_mel_TF = self._mel.of_frames(frames_Tn[None])[0]
        self._samples = self._samples[len(frames_Tn) * hop :].clone()
        self._done_frames += len(frames_Tn)
        return standardize(log_mel_TF, self._statistics)

    def _in_one_thread(self, work: Callable[[], Tensor]) -> Tensor:
        """Call `work`, whose operations are too small for several threads of a CPU."""
        return without_torch_threads(work, threads=1) if self._device.type == "cpu" else work()

    def _advance(self, frames_TF: Tensor) -> Tensor:
        """Steps ``[J, D']`` completed by these and the waiting frames."""
        frames_TF = torch.cat([self._frames_TF, frames_TF])
        patch, a_window = self._config.patch[0], self._config.window_frames
        found = []
        while len(frames_TF) >= patch:
            here = self._done_steps * patch % a_window
            now = min(a_window - here, len(frames_TF) // patch * patch)
            found.append(self._encode(frames_TF[:now], here // patch))
            frames_TF = frames_TF[now:]
            self._done_steps += now // patch
        self._frames_TF = frames_TF.clone()
        return torch.cat(found) if found else frames_TF.new_zeros(0, self._config.embedding_size)

    def _encode(self, frames_TF: Tensor, step: int) -> Tensor:
        """Encode frames that start at the given step of the window to steps ``[J, D']``."""
        per_step = self._config.grid[1]
        with autocast_to(torch.float32, self._device):  # overrides the caller's
            tokens = self._fused.patches(frames_TF[None], first=step * per_step)
            if step == 0:
                self._states = [block.begin() for block in self._blocks]
                tokens = torch.cat([self._fused.cls_token.expand(1, 1, -1), tokens], dim=1)
            for block, state in zip(self._blocks, self._states, strict=True):
                tokens = block(tokens, self._workspace, state)
            tokens = tokens[:, 1:] if step == 0 else tokens
            return self._fused.norm(tokens)[0].unflatten(0, (-1, per_step)).flatten(1)

    def _answer(self, found: list[Tensor], times_J: Tensor) -> Pair:
        empty = self._samples.new_zeros(0, self._config.embedding_size)
        steps_JD = torch.cat([empty, *found])[: len(times_J)]
        if self._numpy:
            return steps_JD.cpu().numpy(), times_J.numpy()
        return steps_JD, times_J.to(self._device)
