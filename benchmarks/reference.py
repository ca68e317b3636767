"""The mLSTM cell as one writes it down first: every S x S matrix materialized, left to autograd.

Shapes: B windows, S tokens, H heads, K head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hear_axlstm.mlstm import EPS


def plain_parallel(q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor) -> Tensor:
    """The same as `hear_axlstm.mlstm.parallel`, all windows at once, in float32."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # [B, H, S, K]
    log_i, log_f = (t.transpose(1, 2) for t in (log_i, log_f))
    total = log_f.cumsum(-1)
    log_d = total[..., :, None] - total[..., None, :] + log_i[..., None, :]
    future = torch.ones_like(log_d, dtype=torch.bool).triu(1)
    log_d = log_d.masked_fill(future, -torch.inf)
    m = log_d.amax(-1, keepdim=True)
    scores = (q @ k.mT) * k.shape[-1] ** -0.5 * torch.exp(log_d - m)
    normalizer = torch.maximum(scores.sum(-1, keepdim=True).abs(), torch.exp(-m)) + EPS
    return ((scores / normalizer) @ v).transpose(1, 2)
