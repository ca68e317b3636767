"""Unstructured random masking of patch tokens (paper section 2.2).

Shapes: B windows, N patches, D model width. In a mask, True hides a patch.
"""

from __future__ import annotations

import torch
from torch import Tensor


def random_mask(
    batch: int, patches: int, ratio: float, generator: torch.Generator | None = None
) -> Tensor:
    """Hide ``round(ratio * patches)`` patches of each row, drawn without replacement.

    Returns:
        bool ``[batch, patches]`` on the generator's device.
    """
    device = generator.device if generator is not None else None
    ranks = torch.rand(batch, patches, generator=generator, device=device).argsort(dim=1)
    return ranks < round(ratio * patches)


def apply_mask(tokens_BND: Tensor, mask_BN: Tensor, mask_token: Tensor) -> Tensor:
    """Replace hidden tokens by the mask token ``[D]``, or by one for each position ``[N, D]``."""
    return torch.where(mask_BN[..., None], mask_token.to(tokens_BND.dtype), tokens_BND)
