"""Where the time of an mLSTM block goes without gradients: projections, cell, and what is left.

`python -m benchmarks` prints it. Needs the compiled part (`hear_axlstm.native`).
"""

from __future__ import annotations

import torch

from benchmarks.timing import Work, in_turns
from hear_axlstm import native
from hear_axlstm.blocks import MLSTMBlock
from hear_axlstm.config import preset
from hear_axlstm.inference import FoldedBlock
from hear_axlstm.matmul import linear
from hear_axlstm.native.block import before_cell, weighted_sums
from hear_axlstm.weighted_sum import row_blocks

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
    xz = linear(low, block.up)
    out = torch.randn(WINDOWS, TOKENS, config.inner_dim).to(dtype)
    sizes, given = before_cell(xz, block.settings, tuple(block.weights))

    def cell() -> None:
        for rows, seen in row_blocks(TOKENS):
            weighted_sums(sizes, given, rows, seen)

    works: dict[str, Work] = {
        "block": lambda: block(tokens),
        "projections": lambda: (linear(low, block.up), linear(out, block.down)),
        "cell": cell,
    }
    seconds = in_turns({key: _often(work) for key, work in works.items()}, rounds, tokens.device)
    parts = [seconds["projections"], seconds["cell"]]
    return [f"{part / seconds['block']:.0%}" for part in (*parts, seconds["block"] - sum(parts))]


def _often(work: Work, times: int = 20) -> Work:
    return lambda: [work() for _ in range(times)]
