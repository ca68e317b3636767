"""transformers: configuration, feature extractor and model for the Auto classes.

model = AxLSTMModel.from_hear_axlstm("axlstm_tiny")
model.save_pretrained("mine"); AxLSTMFeatureExtractor().save_pretrained("mine")
AutoModel.from_pretrained("mine")  # after importing this module
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    BatchFeature,
    PretrainedConfig,
    PreTrainedModel,
    SequenceFeatureExtractor,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hear_axlstm import Embedder, load_model
from hear_axlstm.audio.mel import LogMel
from hear_axlstm.config import ModelConfig
from hear_axlstm.embed.pooling import pool
from hear_axlstm.embed.windows import step_times
from hear_axlstm.models.patch_embed import PatchEmbedding, sincos_positions


class AxLSTMConfig(PretrainedConfig):
    """Settings of an encoder; ``model`` holds those of `hear_axlstm.config.ModelConfig`."""

    model_type = "axlstm"

    def __init__(self, model: dict[str, Any] | None = None, **options: Any) -> None:
        self.model = model or ModelConfig().to_dict()
        super().__init__(**options)

    @property
    def hidden_size(self) -> int:
        """Width of an embedding."""
        return self.encoder_config.embedding_size

    @property
    def encoder_config(self) -> ModelConfig:
        """The settings as a `ModelConfig`."""
        return ModelConfig.from_dict(self.model)


class AxLSTMFeatureExtractor(SequenceFeatureExtractor):
    """Pads waveforms to one length and marks what is padding."""

    model_input_names = ["input_values", "attention_mask"]  # noqa: RUF012

    def __init__(self, sampling_rate: int = 16_000, **options: Any) -> None:
        options = {"feature_size": 1, "padding_value": 0.0, **options}
        super().__init__(sampling_rate=sampling_rate, **options)

    def __call__(
        self, raw_speech: Any, sampling_rate: int | None = None, return_tensors: str = "pt"
    ) -> BatchFeature:
        """Pad waveforms to a batch.

        Args:
            raw_speech: one waveform ``[samples]`` in -1..1, or a list of them.
            sampling_rate: of the waveforms, in Hz.
            return_tensors: "pt" or "np".

        Raises:
            ValueError: for another sampling rate, or waveforms with several channels.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(
                f"sampling_rate={sampling_rate}: resample the audio to {self.sampling_rate} Hz"
            )
        one = np.ndim(raw_speech[0]) == 0
        waveforms = [np.asarray(x, np.float32) for x in ([raw_speech] if one else raw_speech)]
        if any(waveform.ndim != 1 for waveform in waveforms):
            raise ValueError("raw_speech has several channels: average them first")
        return self.pad(
            BatchFeature({"input_values": waveforms}),
            padding="longest",
            return_attention_mask=True,
            return_tensors=return_tensors,
        )


class AxLSTMModel(PreTrainedModel):
    """The HEAR model: waveforms to timestamp embeddings and their mean."""

    config_class = AxLSTMConfig
    base_model_prefix = "embedder"
    main_input_name = "input_values"

    def __init__(self, config: AxLSTMConfig) -> None:
        super().__init__(config)
        self.embedder = Embedder(config.encoder_config)
        self.post_init()

    def state_dict(  # type: ignore[override]
        self,
        *,
        destination: dict[str, Tensor] | None = None,
        prefix: str = "",
        keep_vars: bool = False,
    ) -> dict[str, Tensor]:
        """Parameters by the module names, by which transformers loads them."""
        found = {} if destination is None else destination
        for name, parameter in self.named_parameters():
            found[f"{prefix}{name}"] = parameter if keep_vars else parameter.detach()
        return found

    def _init_weights(self, module: nn.Module) -> None:
        # from_pretrained leaves buffers that are not saved empty: they are computed again. All
        # parameters come from the file.
        if isinstance(module, LogMel):
            for name, buffer in LogMel(module.config).named_buffers():
                module.get_buffer(name).copy_(buffer)
        elif isinstance(module, PatchEmbedding):
            config = self.config.encoder_config
            module.positions.copy_(sincos_positions(config.grid, config.dim))

    @classmethod
    def from_hear_axlstm(cls, name: str = "", **options: Any) -> AxLSTMModel:
        """A model with weights from a name, file, folder or hub address, as for `load_model`."""
        embedder = load_model(name, **options)
        model = cls(AxLSTMConfig(embedder.config.to_dict()))
        model.embedder.load_state_dict(embedder.state_dict())
        model.embedder.precision = embedder.precision
        return model.eval()

    def forward(
        self, input_values: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> BaseModelOutputWithPooling:
        """Embed a padded batch.

        Args:
            input_values: float ``[batch, samples]`` at 16 kHz.
            attention_mask: 1 for samples, 0 for padding, ``[batch, samples]``.

        Returns:
            ``last_hidden_state`` ``[batch, steps, width]``, 0 in padding, and ``pooler_output``
            ``[batch, width]``, the mean over the steps of each clip; with ``pooling="mean_std"``,
            mean and standard deviation ``[batch, 2 width]``.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_values)
        clips = [row[mask] for row, mask in zip(input_values, attention_mask.bool(), strict=True)]
        steps = self.embedder.encode_steps(clips)
        pooled = torch.stack([pool(step, self.embedder.config.pooling) for step in steps])
        times = [step_times(len(clip), self.embedder.config) for clip in clips]
        inside = [step[: len(time)] for step, time in zip(steps, times, strict=True)]
        padded = nn.utils.rnn.pad_sequence(inside, batch_first=True)
        return BaseModelOutputWithPooling(last_hidden_state=padded, pooler_output=pooled)


AutoConfig.register("axlstm", AxLSTMConfig)
AutoModel.register(AxLSTMConfig, AxLSTMModel)
AutoFeatureExtractor.register(AxLSTMConfig, AxLSTMFeatureExtractor)
AxLSTMConfig.register_for_auto_class()
AxLSTMModel.register_for_auto_class("AutoModel")
AxLSTMFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
