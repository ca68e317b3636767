"""`axlstm plot`: training curves of one or more runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from hear_axlstm.options import option
from hear_axlstm.pretrain.plot import plot as draw_curves


def plot(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, option("RUN ...")],
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="OUT")] = Path("curves.png"),
) -> None:
    """Draw the curves of one or more runs: losses, learning rate, gradient norm, kNN accuracy.

    Args:
        runs: Folders of runs, in progress or finished.
        out: PNG to write.
    """
    print(f"curves: {draw_curves(runs, out)}")
