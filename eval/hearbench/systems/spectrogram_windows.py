"""Shared code of SSAM and MW-MAE: from chunks of 200 log-mel frames to rows of five patches.

Shapes: B clips, n samples, T frames, F mel bins, C chunks of a clip, R rows, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hearbench.systems.chunks import in_batches, in_chunks
from hearbench.systems.htk_mel import HOP, N_MELS, SAMPLE_RATE, HtkLogMel, standardize

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

    def scene(self, audio_Bn: Tensor) -> Tensor:
        """The mean over rows [B, 5 D], without holding all rows at once."""
        chunks, rows = self._chunks(audio_Bn)
        counted = rows - STEPS * (chunks.shape[1] - 1)  # rows of the last chunk
        whole, last = chunks[:, :-1], chunks[:, -1:]
        total = self._run(last, lambda rows_bRD: rows_bRD[:, :counted].sum(dim=1))[:, 0]
        if whole.shape[1]:
            total = total + self._run(whole, lambda rows_bRD: rows_bRD.sum(dim=1)).sum(dim=1)
        return total / rows

    def timestamps(self, audio_Bn: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [B, R, 5 D] and their start times [B, R] in ms, evenly spaced over the clip."""
        chunks, rows = self._chunks(audio_Bn)
        embeddings = self._run(chunks, lambda rows_bRD: rows_bRD).flatten(1, 2)[:, :rows]
        step = audio_Bn.shape[-1] * 1000 / SAMPLE_RATE / rows
        times = torch.arange(rows, device=audio_Bn.device, dtype=torch.float64) * step
        return embeddings, times.float().expand(len(audio_Bn), -1)

    def _chunks(self, audio_Bn: Tensor) -> tuple[Tensor, int]:
        """Chunks [B, C, 200, 80] and the number of rows without padding."""
        frames = 1 + audio_Bn.shape[-1] // HOP
        log_mel = standardize(self.log_mel(audio_Bn))
        return in_chunks(self.filled(log_mel), CHUNK), -(-frames // PATCH[0])

    def _run(self, chunks: Tensor, reduced: Callable[[Tensor], Tensor]) -> Tensor:
        return in_batches(lambda part: reduced(self.encoder(part)), chunks, self.at_once)
