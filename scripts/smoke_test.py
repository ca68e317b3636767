"""Check that an installed package can embed; a release runs this with every wheel."""

from __future__ import annotations

import sys

import torch

import hear_axlstm


def main() -> None:
    """Embed a second of noise with the weights that ship."""
    model = hear_axlstm.load_model()
    audio = torch.rand(2, 16_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scenes = hear_axlstm.get_scene_embeddings(audio, model)
    steps, times = hear_axlstm.get_timestamp_embeddings(audio, model)
    assert scenes.shape == (2, 960) and scenes.isfinite().all()
    assert steps.shape[:2] == times.shape
    print(f"hear_axlstm {hear_axlstm.__version__} embeds on {sys.platform}: {scenes[0, :3]}")


if __name__ == "__main__":
    main()
