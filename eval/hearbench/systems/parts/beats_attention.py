"""The attention of BEATs: softmax with a gated bias for the distance between two tokens.

The bias is T5's (Raffel et al., 2020) in logarithmic buckets; its gate is a function of the query,
as in Chi et al., "XLM-E" (2022). Rows of scores are computed a few at a time, so that memory grows
with the length of a clip and not with its square.

Shapes: B clips, N tokens, D width, H heads, K width of a head, R rows computed at once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCORES_AT_ONCE = 1 << 22  # 16 MB


class Attention(nn.Module):
    """Self-attention; its parameters have the published names."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.grep_linear = nn.Linear(dim // heads, 8)
        self.grep_a = nn.Parameter(torch.empty(1, heads, 1, 1))

    def forward(self, x_BND: Tensor, bias: Tensor) -> Tensor:
        """Tokens [B, N, D] and the bias of each distance [H, 2N - 1] -> [B, N, D]."""
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (
            projection(x_BND).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in projections
        )  # [B, H, N, K] each
        gate = self.gate(q)
        count = q.shape[2]
        rows_of_bias = bias.unfold(-1, count, 1)  # [H, N, N], a view: row N - 1 - i belongs to i
        rows = max(1, SCORES_AT_ONCE // (len(q) * self.heads * count))
        outputs = []
        for index in torch.arange(count, device=q.device).split(rows):
            part = slice(int(index[0]), int(index[-1]) + 1)
            mask = gate[:, :, part] * rows_of_bias[:, count - 1 - index]  # [B, H, R, N]
            outputs.append(F.scaled_dot_product_attention(q[:, :, part], k, v, attn_mask=mask))
        return self.out_proj(torch.cat(outputs, dim=2).transpose(1, 2).flatten(2))

    def gate(self, q_BHNK: Tensor) -> Tensor:
        """Factor of the bias for each query, [B, H, N, 1]."""
        sums = self.grep_linear(q_BHNK).unflatten(-1, (2, 4)).sum(dim=-1)
        scale, share = torch.sigmoid(sums).split(1, dim=-1)
        return scale * (share * self.grep_a - 1.0) + 2.0


def relative_bias(table: Tensor, tokens: int, max_distance: int) -> Tensor:
    """The bias of the distances 1 - N ... N - 1 from query to key, [H, 2N - 1].

    Args:
        table: one row per bucket [buckets, H]; the first half is for keys at or before the query.
        tokens: N.
        max_distance: where the buckets end.
    """
    half = len(table) // 2
    near = half // 2  # distances with a bucket of their own
    distance = torch.arange(1 - tokens, tokens, device=table.device)
    size = distance.abs()
    far = torch.log(size.clamp(min=1).float() / near) / math.log(max_distance / near)
    far = (near + (far * (half - near)).long()).clamp(max=half - 1)
    bucket = torch.where(size < near, size, far) + half * (distance > 0)
    return table[bucket].T
