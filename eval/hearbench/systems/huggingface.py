"""wav2vec 2.0, HuBERT and WavLM behind the HEAR API, by Hugging Face transformers.

A timestamp embedding is one frame of the last hidden layer, 20 ms apart in all published models; a
scene embedding is their mean over time, as in the wav2vec 2.0 baseline of HEAR 2021
(hearbaseline.wav2vec2). Clips of a batch have equal lengths, so no attention mask is needed.

Shapes: B clips, n samples, T frames, D embedding size.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FAMILIES = ("wav2vec2", "hubert", "wavlm")
"""`model_type` of the checkpoints whose frame times are known."""
UNUSED = {"masked_spec_embed"}
"""Weights used in training only."""


class SpeechModel(nn.Module):
    """Waveform [B, n] -> normalization -> convolutions -> transformer [B, T, D].

    Args:
        encoder: a model of transformers whose configuration has `conv_kernel` and `conv_stride`.
        sample_rate: sample rate of its training audio, in Hz.
        normalize: whether it was trained on clips of zero mean and unit variance.
    """

    def __init__(self, encoder: Any, sample_rate: int, normalize: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.sample_rate = sample_rate
        self.normalize = normalize
        config = encoder.config
        self.scene_embedding_size = self.timestamp_embedding_size = int(config.hidden_size)
        strides = [prod(config.conv_stride[:i]) for i in range(len(config.conv_stride) + 1)]
        self.hop: int = strides[-1]
        """Samples from one frame to the next."""
        pairs = zip(config.conv_kernel, strides[:-1], strict=True)
        self.window: int = 1 + sum((kernel - 1) * stride for kernel, stride in pairs)
        """Samples that one frame sees."""

    def forward(self, audio: Tensor) -> Tensor:
        """Waveform [B, n] -> frames [B, T, D]; shorter clips are padded with zeros."""
        if self.normalize:  # as transformers' Wav2Vec2FeatureExtractor does
            variance, mean = torch.var_mean(audio, dim=-1, correction=0, keepdim=True)
            audio = (audio - mean) / torch.sqrt(variance + 1e-7)
        audio = nn.functional.pad(audio, (0, max(0, self.window - audio.shape[-1])))
        return self.encoder(audio).last_hidden_state


def load_model(model_file_path: str = "") -> SpeechModel:
    """Load a checkpoint.

    Args:
        model_file_path: folder that `save_pretrained` wrote, or a name on the Hugging Face hub,
            e.g. `facebook/wav2vec2-base`. It needs a preprocessor_config.json.

    Raises:
        ValueError: if it is missing, incomplete or of another kind.
        ImportError: if transformers is not installed.
    """
    if not model_file_path:
        raise ValueError("no checkpoint: give a folder or a hub name, e.g. facebook/wav2vec2-base")
    try:
        from transformers import AutoConfig, AutoFeatureExtractor, AutoModel
    except ImportError as error:
        raise ImportError(
            "this system needs transformers: pip install './eval[huggingface]'"
        ) from error
    name = model_file_path
    if name.startswith(("/", ".", "~")):  # else the hub would be asked for it
        name = str(Path(name).expanduser())
        if not Path(name).is_dir():
            raise ValueError(f"{model_file_path}: no such folder")
    try:
        config = AutoConfig.from_pretrained(name)
        features = AutoFeatureExtractor.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{model_file_path}: no checkpoint with config.json and preprocessor_config.json could "
            f"be read ({reason})"
        ) from error
    if config.model_type not in FAMILIES or getattr(config, "add_adapter", False):
        raise ValueError(
            f"{model_file_path} is a {config.model_type} model: only {', '.join(FAMILIES)} without "
            "an adapter are supported"
        )
    encoder, loading = AutoModel.from_pretrained(
        name, dtype=torch.float32, output_loading_info=True
    )
    if missing := sorted(set(loading["missing_keys"]) - UNUSED):
        raise ValueError(
            f"{model_file_path} lacks {len(missing)} weights, e.g. {missing[0]}: they would be "
            "random; load a complete checkpoint"
        )
    for name in loading["missing_keys"]:  # random in every process; a fingerprint covers them
        nn.init.zeros_(encoder.get_parameter(name))
    return SpeechModel(encoder, features.sampling_rate, features.do_normalize).eval()


@torch.no_grad()
def get_timestamp_embeddings(audio: Tensor, model: SpeechModel) -> tuple[Tensor, Tensor]:
    """Waveform [B, n] -> embeddings [B, T, D] and the centers of their windows [B, T] in ms."""
    embeddings = model(audio)
    frames = torch.arange(embeddings.shape[1], device=audio.device, dtype=torch.float64)
    times = (frames * model.hop + model.window / 2) * 1000 / model.sample_rate
    return embeddings, times.float().expand(audio.shape[0], -1)


@torch.no_grad()
def get_scene_embeddings(audio: Tensor, model: SpeechModel) -> Tensor:
    """Waveform [B, n] -> embeddings [B, D]."""
    return model(audio).mean(dim=1)
