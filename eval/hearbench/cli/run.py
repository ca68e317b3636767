"""`hearbench run`: evaluate systems on tasks and write the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from hearbench.options import option
from hearbench.run.evaluate import Options, evaluate_systems


def run(
    options: Annotated[Options, tyro.conf.arg(name="")],
    systems: Annotated[tuple[str, ...], option("SYSTEM ...")] = (),
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/eval"),
) -> int:
    """Evaluate systems on tasks with several seeds; finished runs are never repeated.

    Args:
        options: How systems are evaluated.
        systems: NAME or NAME@CHECKPOINT (`hearbench systems` lists the names), weights such as
            axlstm_base.audioset, or [LABEL=]MODULE[@CHECKPOINT] for any other HEAR module.
            (default: naive, spectrum, logmel, random, ssast_tiny and axlstm_tiny)
        out: Output folder.
    """
    evaluation = evaluate_systems(systems, out, options, print)
    print(evaluation.outcome)
    return 1 if evaluation.failures else 0
