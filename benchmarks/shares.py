"""Shares of an mLSTM block's time without gradients: projections, cell and the rest.

`python -m benchmarks` prints it. Needs the compiled library.
"""

from __future__ import annotations

import torch

from benchmarks.timing import Work, in_turns, often
from hear_axlstm.config import preset
from hear_axlstm.embed.fused import FusedMLSTM
from hear_axlstm.models.mlstm import MLSTMBlock
from hear_axlstm.ops.backends import backend
from hear_axlstm.ops.cpu_mixer import Pass, before_cell, weighted_sum
from hear_axlstm.ops.library import Sizes
from hear_axlstm.ops.workspace import Workspace

WINDOWS, TOKENS = 4, 251


@torch.no_grad()
def shares(name: str, dtype: torch.dtype, rounds: int) -> list[str]:
    """Percent of a block's time, one thread: projections, the cell, everything else."""
    config = preset(name)
    if backend("cpu") != "cpu":
        return ["-"] * 3
    plain, workspace = MLSTMBlock(config), Workspace()
    block = FusedMLSTM(plain, dtype)
    tokens = torch.randn(WINDOWS, TOKENS, config.dim)
    low = tokens.to(dtype)
    xz = block.up(low, workspace, "xz")
    out = torch.randn(WINDOWS, TOKENS, MLSTMBlock.inner_dim(config)).to(dtype)
    sizes = Sizes(WINDOWS, TOKENS, block.heads, block.head_size // 4)
    given, _ = before_cell(xz, Pass(sizes, tuple(block.weights), block.gates, workspace))

    works: dict[str, Work] = {
        "block": lambda: block(tokens, workspace),
        "projections": lambda: (block.up(low, workspace, "xz"), block.down(out, workspace, "down")),
        "cell": lambda: weighted_sum(sizes, given, workspace),
    }
    seconds = in_turns({key: often(work, 20) for key, work in works.items()}, rounds, tokens.device)
    parts = [seconds["projections"], seconds["cell"]]
    return [f"{part / seconds['block']:.0%}" for part in (*parts, seconds["block"] - sum(parts))]
