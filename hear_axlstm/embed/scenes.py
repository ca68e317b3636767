"""Scene embeddings of audio files, decoded ahead of the device.

Shapes: n samples, D' embedding size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from hear_axlstm.audio.io import AudioError, load_audio
from hear_axlstm.audio.loader import prefetch
from hear_axlstm.embed.embedder import Embedder

CLIPS_AHEAD = 8  # decoded while the device works on as many


@dataclass(frozen=True)
class Span:
    """A file, or a part of it."""

    path: Path
    start: float = 0.0
    """Seconds."""
    end: float | None = None
    """Seconds; None is the end of the file."""

    def decode(self, sample_rate: int) -> Tensor:
        """Samples ``[n]`` of one channel.

        Raises:
            AudioError: if the file gives no usable audio.
        """
        return torch.from_numpy(load_audio(self.path, sample_rate, self.start, self.end))


@torch.no_grad()
def scenes_of(embedder: Embedder, spans: Sequence[Span]) -> Iterator[Tensor | AudioError]:
    """The scene embedding ``[D']`` of each span on the CPU, or why it has none; shows progress."""

    def decode(span: Span) -> Tensor | AudioError:
        try:
            return span.decode(embedder.sample_rate)
        except AudioError as error:
            return error

    def decode_some(number: int) -> list[Tensor | AudioError]:
        first = number * CLIPS_AHEAD
        return [decode(span) for span in spans[first : first + CLIPS_AHEAD]]

    if not spans:
        return
    with tqdm(total=len(spans), desc="embedding", unit="clip", dynamic_ncols=True) as progress:
        for some in prefetch(decode_some, 0, -(-len(spans) // CLIPS_AHEAD)):
            clips = [clip.to(embedder.device) for clip in some if isinstance(clip, Tensor)]
            scenes = iter(embedder.scenes(clips).cpu() if clips else ())
            for clip in some:
                yield next(scenes) if isinstance(clip, Tensor) else clip
                progress.update()
