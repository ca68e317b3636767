"""Patches of a spectrogram, their positions, and random masks (paper section 2.2).

Shapes: B windows, T mel frames, F mel bins, N patches (time-major: the patches of one time step
are adjacent), p values of a patch (frames first), D model width. In a mask, True means masked.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hear_axlstm.config import ModelConfig

POSITION_BASE = 10_000.0


def patchify(mel_BTF: Tensor, patch: tuple[int, int]) -> Tensor:
    """Cut into non-overlapping patches: ``[B, T, F]`` -> ``[B, N, p]``."""
    frames, bins = patch
    grid = mel_BTF.unflatten(2, (-1, bins)).unflatten(1, (-1, frames))  # [B, T', frames, F', bins]
    return grid.transpose(2, 3).flatten(3).flatten(1, 2)


def unpatchify(patches_BNp: Tensor, patch: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Reassemble patches into a spectrogram: ``[B, N, p]`` -> ``[B, T, F]``."""
    cells = patches_BNp.unflatten(2, patch).unflatten(1, grid)  # [B, T', F', frames, bins]
    return cells.transpose(2, 3).flatten(3).flatten(1, 2)


def sincos_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """Fixed 2-D sinusoidal positions, float32 ``[N, D]``.

    The first half of the channels encodes the frequency index, the second half the time index;
    each half holds its sines, then its cosines.
    """
    time, frequency = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    rates = POSITION_BASE ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = [index.reshape(-1, 1) * rates for index in (frequency, time)]
    return torch.cat([wave for a in angles for wave in (a.sin(), a.cos())], dim=1).float()


class PatchEmbedding(nn.Module):
    """Linear projection of patches plus their fixed positions."""

    positions: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.projection = nn.Linear(config.patch_size, config.dim, dtype=torch.float32)
        positions = sincos_positions(config.grid, config.dim)
        self.register_buffer("positions", positions, persistent=False)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, mel_BTF: Tensor, first: int = 0) -> Tensor:
        """Embed a window of log-mel, or part of one: ``[B, T, F]`` -> tokens ``[B, N, D]``.

        Args:
            mel_BTF: log-mel, with T a multiple of the patch's frames.
            first: index in the window of the first patch.
        """
        tokens = self.projection(patchify(mel_BTF, self.patch))
        return tokens + self.positions[first : first + tokens.shape[1]]


def random_mask(
    batch: int, patches: int, ratio: float, generator: torch.Generator | None = None
) -> Tensor:
    """Mask ``round(ratio * patches)`` patches of each row, drawn without replacement.

    Returns:
        bool ``[batch, patches]`` on the generator's device.
    """
    device = generator.device if generator is not None else None
    drawn = torch.rand(batch, patches, generator=generator, dtype=torch.float32, device=device)
    return drawn.argsort(dim=1) < round(ratio * patches)


def apply_mask(tokens_BND: Tensor, mask_BN: Tensor, mask_token: Tensor) -> Tensor:
    """Replace masked tokens with the mask token ``[D]``, or with one per position ``[N, D]``."""
    return torch.where(mask_BN[..., None], mask_token.to(tokens_BND.dtype), tokens_BND)
