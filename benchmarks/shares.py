"""Where the time of an mLSTM block goes without gradients: projections, cell, and what is left.

`python -m benchmarks` prints it. Needs the compiled part (`hear_axlstm.ops.native`).
"""

from __future__ import annotations

import torch

from benchmarks.timing import Work, in_turns
from hear_axlstm.config import preset
from hear_axlstm.embed.fused import FoldedBlock
from hear_axlstm.models.blocks import MLSTMBlock
from hear_axlstm.ops import native
from hear_axlstm.ops.native.block import before_cell, weighted_sums

WINDOWS, TOKENS = 4, 251


@torch.no_grad()
def shares(name: str, dtype: torch.dtype, rounds: int) -> list[str]:
    """Percent of a block's time, one thread: projections, the cell, everything else."""
    config = preset(name)
    block = FoldedBlock(MLSTMBlock(config, reverse=False), dtype)
    tokens = torch.randn(WINDOWS, TOKENS, config.dim)
    if not native.is_usable(tokens, block.settings):
        return ["-"] * 3
    low = tokens.to(dtype)
    memory = native.Memory()
    xz = block.up(low, memory, "xz")
    out = torch.randn(WINDOWS, TOKENS, config.inner_dim).to(dtype)
    sizes, given = before_cell(xz, block.settings, tuple(block.weights), memory)

    works: dict[str, Work] = {
        "block": lambda: block(tokens, memory),
        "projections": lambda: (block.up(low, memory, "xz"), block.down(out, memory, "down")),
        "cell": lambda: weighted_sums(sizes, given, memory),
    }
    seconds = in_turns({key: _often(work) for key, work in works.items()}, rounds, tokens.device)
    parts = [seconds["projections"], seconds["cell"]]
    return [f"{part / seconds['block']:.0%}" for part in (*parts, seconds["block"] - sum(parts))]


def _often(work: Work, times: int = 20) -> Work:
    return lambda: [work() for _ in range(times)]
