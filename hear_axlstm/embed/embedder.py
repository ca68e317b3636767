"""The HEAR model: embeds waveforms of any length as timestamps and scenes.

Shapes: B clips, n samples, J time steps of 40 ms (for patches of 4 frames), D model width,
D' = D x frequency patches, the embedding size (a scene's is twice that with pooling "mean_std").
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hear_axlstm.audio.mel import Statistics
from hear_axlstm.config import ModelConfig
from hear_axlstm.embed import inputs
from hear_axlstm.embed.clip_encoder import ClipEncoder
from hear_axlstm.embed.clip_loader import Loader
from hear_axlstm.embed.eager import eager
from hear_axlstm.embed.inputs import (
    ArrayAudio,
    ArrayClip,
    Audio,
    Errors,
    Failed,
    Kind,
    TensorAudio,
)
from hear_axlstm.embed.stream import Stream
from hear_axlstm.embed.windows import step_times
from hear_axlstm.files import digest

StatisticsLike: TypeAlias = Statistics | tuple[float, float]
SMALLEST_STD = 1e-3  # of calibration audio's log-mel; constant audio has 1e-5, by rounding

# Abbreviations for overloads
Lengths: TypeAlias = Iterable[int] | None
Fixed: TypeAlias = StatisticsLike | None
Clips: TypeAlias = "Sequence[Tensor] | Sequence[ArrayClip]"
Raise: TypeAlias = Literal["raise"]
Skip: TypeAlias = Literal["skip"]


class Embedder(ClipEncoder):
    """Log-mel front end and encoder with the attributes required by the HEAR API.

    Attributes:
        precision: data type of the large matrix products: "float32", "bfloat16", or "auto":
            bfloat16 where it is faster. Embeddings are always float32. Fused weights are updated
            when it changes.
        sample_rate: sample rate of the input in Hz.
        scene_embedding_size, timestamp_embedding_size: width of an embedding, D' (2 D' for a scene
            with pooling "mean_std").
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.sample_rate = config.mel.sample_rate
        self.scene_embedding_size = config.scene_embedding_size
        self.timestamp_embedding_size = config.embedding_size

    @eager
    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Compute timestamp embeddings and times, as `hear_axlstm.get_timestamp_embeddings` does.

        Args:
            audio: float ``[B, n]`` in -1..1 at ``sample_rate``, on the model's device.

        Returns:
            float32 ``[B, J, D']``, and the times in ms, float32 ``[B, J]``.
        """
        inputs.check_batch(audio, self.device)
        times_J = step_times(audio.shape[1], self.config)
        steps_BJD = torch.stack(self.encode_steps(audio))[:, : len(times_J)]
        return steps_BJD, times_J.to(audio.device).repeat(len(audio), 1)

    @eager
    def scene(self, audio: Tensor) -> Tensor:
        """Compute scene embeddings: the time steps pooled, by default their mean (section 3.2).

        Args:
            audio: float ``[B, n]`` in -1..1 at ``sample_rate``, on the model's device.

        Returns:
            float32 ``[B, D']``.
        """
        inputs.check_batch(audio, self.device)
        return self.encode_scenes(audio)

    def fingerprint(self) -> str:
        """Digest of what an embedding depends on besides the audio: package, settings, weights."""
        settings = json.dumps(self.config.to_dict(), sort_keys=True)
        return digest([version("hear_axlstm"), settings, self.digest()])

    @overload
    def embed_scenes(  # type: ignore[overload-overlap]
        self,
        audio: TensorAudio,
        lengths: Lengths = ...,
        statistics: Fixed = ...,
        errors: Raise = ...,
    ) -> Tensor: ...

    @overload
    def embed_scenes(
        self,
        audio: ArrayAudio,
        lengths: Lengths = ...,
        statistics: Fixed = ...,
        errors: Raise = ...,
    ) -> NDArray[np.float32]: ...

    @overload
    def embed_scenes(
        self, audio: Audio, lengths: Lengths = ..., statistics: Fixed = ..., *, errors: Skip
    ) -> tuple[Any, list[Failed]]: ...

    @eager
    @torch.no_grad()
    def embed_scenes(
        self,
        audio: Audio,
        lengths: Iterable[int] | None = None,
        statistics: StatisticsLike | None = None,
        errors: Errors = "raise",
    ) -> Any:
        """Embed clips of any length, each as one scene embedding.

        Padding and other clips do not affect a clip's embedding. Clips that are silent or shorter
        than 25 ms are embedded with a warning.

        Args:
            audio: path of a file of any rate and number of channels, its content as bytes, or an
                open file; samples ``[n]`` in -1..1 at ``sample_rate``, as a NumPy array or a
                tensor; samples of any rate as a pair (samples, rate) or as a dict with "array" and
                "sampling_rate"; a list of these, of any lengths; or a padded batch ``[B, n]``.
            lengths: number of valid samples in each row of a padded batch, by default all.
            statistics: mean and standard deviation used to standardize all clips, as in a stream;
                by default each clip's own.
            errors: "raise", or, for lists, "skip" to leave out clips that can't be embedded.

        Returns:
            ``[B, D']``, or ``[D']`` for one clip: a tensor on the model's device if tensors were
            passed, otherwise a NumPy array. With ``errors="skip"``, a pair of the embeddings of the
            other clips and a list of the failed ones, with index, name and reason.

        Raises:
            AudioError: for a file without usable audio.
            TypeError, ValueError: for other arguments that can't be embedded.
        """
        fixed = None if statistics is None else Statistics.of(statistics)
        request = inputs.parse(audio, lengths, self.sample_rate, errors)
        loaded = Loader(request, self.sample_rate, self.device, errors)
        scenes = [scene for clips in loaded for scene in self.encode_scenes(clips, fixed)]
        loaded.finish(warns=fixed is None)
        answer = inputs.answer_scenes(request, scenes, self.scene_embedding_size, self.device)
        return (answer, loaded.failed) if errors == "skip" else answer

    @overload
    def embed_timestamps(
        self, audio: Tensor, lengths: Lengths = ..., statistics: Fixed = ..., errors: Raise = ...
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def embed_timestamps(  # type: ignore[overload-overlap]
        self, audio: ArrayClip, lengths: Lengths = ..., statistics: Fixed = ..., errors: Raise = ...
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...

    @overload
    def embed_timestamps(
        self, audio: Clips, lengths: Lengths = ..., statistics: Fixed = ..., errors: Raise = ...
    ) -> tuple[list[Any], list[Any]]: ...

    @overload
    def embed_timestamps(
        self, audio: Audio, lengths: Lengths = ..., statistics: Fixed = ..., *, errors: Skip
    ) -> tuple[Any, Any, list[Failed]]: ...

    @eager
    @torch.no_grad()
    def embed_timestamps(
        self,
        audio: Audio,
        lengths: Iterable[int] | None = None,
        statistics: StatisticsLike | None = None,
        errors: Errors = "raise",
    ) -> Any:
        """Embed clips as timestamp embeddings every 40 ms, and return their times in ms.

        Args:
            audio: as in `embed_scenes`.
            lengths: as in `embed_scenes`.
            statistics: as in `embed_scenes`.
            errors: as in `embed_scenes`.

        Returns:
            Embeddings ``[J, D']`` and times ``[J]`` for one clip; ``[B, J, D']`` and ``[B, J]`` for
            a batch (0 and NaN past the end of a shorter row); two lists of B arrays for a list.
            With ``errors="skip"``, also a list of the clips that failed.

        Raises:
            AudioError, TypeError, ValueError: as in `embed_scenes`.
        """
        fixed = None if statistics is None else Statistics.of(statistics)
        request = inputs.parse(audio, lengths, self.sample_rate, errors)
        loaded = Loader(request, self.sample_rate, self.device, errors)
        pairs: list[tuple[Tensor, Tensor]] = []
        for clips in loaded:
            for clip, steps_JD in zip(clips, self.encode_steps(clips, fixed), strict=True):
                times_J = step_times(len(clip), self.config).to(self.device)
                pairs.append((steps_JD[: len(times_J)], times_J))
        loaded.finish(warns=fixed is None)
        answer = inputs.answer_timestamps(
            request, pairs, self.timestamp_embedding_size, self.device
        )
        return (*answer, loaded.failed) if errors == "skip" else answer

    def embed(
        self,
        audio: Audio,
        lengths: Iterable[int] | None = None,
        kind: Kind = "scene",
        statistics: StatisticsLike | None = None,
        errors: Errors = "raise",
    ) -> Any:
        """Call `embed_scenes`, or `embed_timestamps` if `kind` is "timestamp"."""
        calls = {"scene": self.embed_scenes, "timestamp": self.embed_timestamps}
        if kind not in calls:
            raise ValueError(f"kind={kind!r}: choose one of {', '.join(calls)}")
        call: Any = calls[kind]
        return call(audio, lengths, statistics, errors)

    @eager
    @torch.no_grad()
    def fit_statistics(self, audio: Audio) -> Statistics:
        """Compute mean and standard deviation of the log-mel of calibration audio, for streams.

        Args:
            audio: one or more clips, as in `embed_scenes`: a few seconds similar to the audio that
                will be embedded, with sounds and pauses. All frames have equal weight.

        Raises:
            ValueError: if all of the audio is silent or constant.
        """
        self.check_dtype()
        request = inputs.parse(audio, None, self.sample_rate, "raise")
        loaded = Loader(request, self.sample_rate, self.device)
        log_mels = [self.mel(clip[None])[0] for clips in loaded for clip in clips]
        std, mean = torch.std_mean(torch.cat(log_mels))
        if not std > SMALLEST_STD:
            raise ValueError(
                "the calibration audio is silent or constant: record sounds and pauses"
            )
        return Statistics(mean.item(), std.item())

    def stream(self, statistics: StatisticsLike) -> Stream:
        """Return a stream that embeds live audio, each step as soon as it is complete.

        Args:
            statistics: fixed mean and standard deviation of the log-mel, for example from
                `fit_statistics`. The result equals ``embed_timestamps(..., statistics=...)``.

        Raises:
            ValueError: for a model whose steps depend on later ones.
        """
        self.check_dtype()
        return Stream(self.encoder, self.mel, Statistics.of(statistics), self.precision)
