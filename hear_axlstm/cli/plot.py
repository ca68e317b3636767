"""`axlstm plot`: the curves of several runs."""

from __future__ import annotations

from pathlib import Path

import tyro

from hear_axlstm.pretrain.plot import plot as draw_curves


def plot(runs: tyro.conf.Positional[tuple[Path, ...]], *, out: Path = Path("curves.png")) -> None:
    """Draw the curves of one or more runs: losses, learning rate, gradient norm, probe.

    Args:
        runs: Folders of runs, in progress or finished.
        out: PNG to write.
    """
    print(f"curves: {draw_curves(runs, out)}")
