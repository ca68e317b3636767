"""Shared code of SSAM and MW-MAE: from chunks of 200 log-mel frames to rows of five patches.

Shapes: B clips, n samples, T frames, F mel bins, C chunks of a clip, R rows, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hearbench.systems.parts.chunks import as_batch, in_batches, in_chunks
from hearbench.systems.parts.htk_mel import HOP, N_MELS, SAMPLE_RATE, HtkLogMel, standardize

CHUNK = 200  # frames
PATCH = (4, 16)  # frames, mel bins
STEPS, BANDS = CHUNK // PATCH[0], N_MELS // PATCH[1]
TOKENS = STEPS * BANDS


class ChunkedModel(nn.Module):
    """Waveform [B, n] at 16 kHz -> a row of 5 D values every 40 ms, ceil(T / 4) of them.

    Args:
        encoder: chunks [b, 200, 80] -> rows [b, 50, 5 D].
        dim: D.
        filled: pads frames [B, T, F] to a multiple of 200; unchanged ones are padded with zeros.
        at_once: maximum number of chunks in one call of the encoder.
    """

    sample_rate = SAMPLE_RATE

    def __init__(
        self, encoder: nn.Module, dim: int, filled: Callable[[Tensor], Tensor], at_once: int
    ) -> None:
        super().__init__()
        self.log_mel = HtkLogMel()
        self.encoder = encoder
        self.filled = filled
        self.at_once = at_once
        self.scene_embedding_size = self.timestamp_embedding_size = BANDS * dim

    def chunks(self, audio_Bn: Tensor) -> tuple[Tensor, int]:
        """Chunks [B, C, 200, 80] and the number of rows without padding."""
        frames = 1 + audio_Bn.shape[-1] // HOP
        log_mel = standardize(self.log_mel(audio_Bn))
        return in_chunks(self.filled(log_mel), CHUNK), -(-frames // PATCH[0])

    def run(self, chunks: Tensor, reduced: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply `reduced` to the rows of each chunk: [B, C, ...]."""
        return in_batches(lambda part: reduced(self.encoder(part)), chunks, self.at_once)


@torch.no_grad()
def get_scene_embeddings(audio: Tensor, model: ChunkedModel) -> Tensor:
    """Waveform [B, n] -> embeddings [B, 5 D], the mean over rows, which are never held at once."""
    chunks, rows = model.chunks(as_batch(audio))
    counted = rows - STEPS * (chunks.shape[1] - 1)  # rows of the last chunk
    whole, last = chunks[:, :-1], chunks[:, -1:]
    total = model.run(last, lambda rows_bRD: rows_bRD[:, :counted].sum(dim=1))[:, 0]
    if whole.shape[1]:
        total = total + model.run(whole, lambda rows_bRD: rows_bRD.sum(dim=1)).sum(dim=1)
    return total / rows


@torch.no_grad()
def get_timestamp_embeddings(audio: Tensor, model: ChunkedModel) -> tuple[Tensor, Tensor]:
    """Waveform [B, n] -> rows [B, R, 5 D] and their start times [B, R] in ms, evenly spaced."""
    chunks, rows = model.chunks(as_batch(audio))
    embeddings = model.run(chunks, lambda rows_bRD: rows_bRD).flatten(1, 2)[:, :rows]
    step = audio.shape[-1] * 1000 / SAMPLE_RATE / rows
    times = torch.arange(rows, device=audio.device, dtype=torch.float64) * step
    return embeddings, times.float().expand(len(audio), -1)
