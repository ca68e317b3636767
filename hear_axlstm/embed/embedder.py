"""The HEAR model: waveforms of any length to timestamp and scene embeddings.

Shapes: B clips, n samples, T mel frames, F mel bins, W windows of 2 s, J time steps of 40 ms
(for patches of 4 frames), D model width, D' = D x frequency patches, the embedding size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from hear_axlstm.audio.mel import LogMel, Statistics, standardize
from hear_axlstm.config import ModelConfig
from hear_axlstm.embed import inputs
from hear_axlstm.embed.fused import encode_windows
from hear_axlstm.embed.inputs import Audio, Kind
from hear_axlstm.embed.stream import Stream
from hear_axlstm.embed.windows import Window, batches, cut, step_times
from hear_axlstm.models.encoder import Encoder
from hear_axlstm.ops.precision import Precision, product_dtype

# Mel frames encoded at once: bounds memory, whatever the length.
FRAMES_PER_PASS = {"cpu": 12_800, "cuda": 51_200}
SMALLEST_STD = 1e-3  # of calibration audio's log-mel; constant audio has 1e-5, by rounding


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

        Args:
            audio: float ``[B, n]`` in -1..1 at ``sample_rate``, on the model's device.

        Returns:
            float32 ``[B, J, D']``, and the times in ms, float32 ``[B, J]``.
        """
        inputs.check_batch(audio, self.device)
        times_J = step_times(audio.shape[1], self.config)
        steps_BJD = torch.stack(self.steps(audio))[:, : len(times_J)]
        return steps_BJD, times_J.to(audio.device).repeat(len(audio), 1)

    def scene(self, audio: Tensor) -> Tensor:
        """Scene embeddings: the mean over all time steps (paper section 3.2).

        Args:
            audio: float ``[B, n]`` in -1..1 at ``sample_rate``, on the model's device.

        Returns:
            float32 ``[B, D']``.
        """
        inputs.check_batch(audio, self.device)
        return self.scenes(audio)

    @torch.no_grad()
    def embed(
        self,
        audio: Audio,
        lengths: Iterable[int] | None = None,
        kind: Kind = "scene",
        statistics: Statistics | tuple[float, float] | None = None,
    ) -> inputs.Embeddings:
        """Embed files or arrays; each clip comes out as if it were alone.

        Args:
            audio: the path of a file of any rate and number of channels; samples ``[n]`` in -1..1
                at ``sample_rate``, as a NumPy array or a tensor; a list of either, of any lengths;
                or a padded batch ``[B, n]``.
            lengths: samples that count in each row of a padded batch, by default all.
            kind: "scene" or "timestamp".
            statistics: mean and standard deviation to standardize every clip by, as a stream does;
                by default each clip by its own.

        Returns:
            Scene embeddings ``[B, D']``. Or a pair: timestamp embeddings and their times in ms,
            ``[B, J, D']`` and ``[B, J]`` for a batch (past the end of a shorter row 0 and NaN), two
            lists of B arrays for a list. One file or ``[n]`` is answered without B. Tensors, on the
            model's device, for tensors; else NumPy arrays.

        Raises:
            AudioError: for a file that gives no usable audio.
            TypeError, ValueError: for other arguments that can't be embedded.
        """
        fixed = None if statistics is None else Statistics.of(statistics)
        return inputs.embed(self, audio, lengths, kind, fixed)

    @torch.no_grad()
    def measure(self, audio: Audio) -> Statistics:
        """Statistics of the log-mel of calibration audio, for `stream` and `embed`.

        Args:
            audio: one clip or several, as in `embed`; some seconds of what is to come, sound and
                pauses. Frames of all clips count alike.

        Raises:
            ValueError: if all of it is silent or constant.
        """
        self._check_dtype()
        log_mels = [self.mel(clip[None])[0] for clip in inputs.read(audio, self)]
        std, mean = torch.std_mean(torch.cat(log_mels))
        if not std > SMALLEST_STD:
            raise ValueError(
                "the calibration audio is silent or constant: record sounds and pauses"
            )
        return Statistics(mean.item(), std.item())

    def stream(self, statistics: Statistics | tuple[float, float]) -> Stream:
        """Embed sound while it comes, each step as soon as it is complete.

        Args:
            statistics: mean and standard deviation of the log-mel, fixed before: from `measure`, or
                known. The result is that of ``embed(..., kind="timestamp", statistics=...)``.

        Raises:
            ValueError: for a model whose steps depend on later ones.
        """
        self._check_dtype()
        return Stream(self.encoder, self.mel, Statistics.of(statistics), self.precision)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.encoder.cls_token.device

    def _check_dtype(self) -> None:
        dtype = self.encoder.cls_token.dtype
        if dtype != torch.float32:
            raise ValueError(
                f"the model is {dtype}: keep it in float32 (model.float()), and for faster "
                "products set model.precision = 'bfloat16'"
            )

    def scenes(self, audio: Iterable[Tensor], statistics: Statistics | None = None) -> Tensor:
        """The means over all time steps of clips ``[n]`` of any lengths, float32 ``[B, D']``."""
        sums: dict[int, list[Tensor]] = defaultdict(list)
        counts: dict[int, int] = defaultdict(int)
        for batch, steps_WJD in self._encoded(audio, statistics):
            own = [window.steps(self.config.patch[0]) for window in batch]
            index_J = torch.arange(steps_WJD.shape[1], device=steps_WJD.device)
            inside_WJ = index_J < torch.tensor(own, device=steps_WJD.device)[:, None]
            sums_WD = (steps_WJD * inside_WJ[..., None]).sum(1)
            for window, steps, sum_D in zip(batch, own, sums_WD, strict=True):
                sums[window.clip].append(sum_D)
                counts[window.clip] += steps
        return torch.stack([torch.stack(sums[c]).sum(0) / counts[c] for c in range(len(sums))])

    def steps(self, audio: Iterable[Tensor], statistics: Statistics | None = None) -> list[Tensor]:
        """All time steps of clips ``[n]`` of any lengths, float32 ``[J, D']`` each.

        A last one may be centered past the end of its clip; `step_times` tells.
        """
        parts: dict[int, list[Tensor]] = defaultdict(list)
        for batch, steps_WJD in self._encoded(audio, statistics):
            for window, steps_JD in zip(batch, steps_WJD, strict=True):
                parts[window.clip].append(steps_JD[: window.steps(self.config.patch[0])])
        return [torch.cat(parts[clip]) for clip in range(len(parts))]

    def _encoded(
        self, audio: Iterable[Tensor], statistics: Statistics | None
    ) -> Iterator[tuple[list[Window], Tensor]]:
        """The windows of all clips, in batches with their time steps ``[W, J, D']``."""
        log_mels = self._log_mels(list(audio), statistics)
        width = self.config.window_frames
        # A causal encoder never looks at the padding that follows: it is left out, unless
        # rows mix early and late tokens.
        alone = self.config.causal and self.config.layout == "time"
        multiple = self.config.patch[0] if alone else width
        budget = FRAMES_PER_PASS.get(self.device.type, FRAMES_PER_PASS["cpu"])
        for batch in batches([len(mel) for mel in log_mels], width, multiple, budget):
            yield batch, self._encode(cut(log_mels, batch))

    def _log_mels(self, audio: Sequence[Tensor], statistics: Statistics | None) -> list[Tensor]:
        """Standardized log-mel of each clip, ``[T, F]``; clips of one length go together."""
        self._check_dtype()
        same: dict[int, list[int]] = defaultdict(list)
        for index, clip in enumerate(audio):
            same[len(clip)].append(index)
        log_mels: dict[int, Tensor] = {}
        for members in same.values():
            waveforms = torch.stack([audio[index] for index in members]).float()
            log_mels.update(zip(members, standardize(self.mel(waveforms), statistics), strict=True))
        return [log_mels[index] for index in range(len(audio))]

    def _encode(self, windows: Tensor) -> Tensor:
        """Windows ``[W, T, F]`` to the steps of each, ``[W, T / 4, D']``."""
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
