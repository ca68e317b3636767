"""Scene embeddings of listed clips, one at a time, for commands that score or classify them.

Shapes: D' embedding size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import closing

import torch
from torch import Tensor

from hear_axlstm.ahead import groups
from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.audio.decode_ahead import decode_ahead
from hear_axlstm.audio.skipped import Skipped
from hear_axlstm.audio.usable import Decoded, compute_decoded, sample_count
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.embed.windows import Budget
from hear_axlstm.progress import Progress


@torch.no_grad()
def iter_scenes(
    embedder: Embedder, clips: Iterable[AudioClip | Skipped]
) -> Iterator[tuple[AudioClip | Skipped, Tensor | Skipped]]:
    """Yield each clip with its scene embedding ``[D']`` on the CPU, or the reason for having none.

    Clips that are broken, silent or shorter than 25 ms have no embedding. Shows progress.
    """

    def scenes_on_cpu(decoded: Sequence[Decoded]) -> Tensor:
        return embedder.encode_scenes(to_tensors(decoded, embedder)).cpu()

    total = len(clips) if isinstance(clips, Sized) else None
    held = Budget.of(embedder.device).held_samples(embedder.sample_rate)
    found = decode_ahead(((clip, clip) for clip in clips), embedder.sample_rate, None, held)
    with closing(found), Progress(total=total, desc="embedding", unit="clip") as bar:
        for group in groups(found, lambda pair: sample_count(pair[1]), held):
            scenes = compute_decoded([item for _, item in group], scenes_on_cpu)
            for (clip, _), scene in zip(group, scenes, strict=True):
                yield clip, scene
                bar.update()


def to_tensors(clips: Sequence[Decoded], embedder: Embedder) -> list[Tensor]:
    """Samples of decoded clips as tensors on the model's device."""
    return [torch.from_numpy(clip.waveform).to(embedder.device) for clip in clips]
