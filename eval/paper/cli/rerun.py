"""`python -m paper rerun`: published checkpoints of Table 2's systems, evaluated again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from hearbench.run.evaluate import Options, evaluate_systems
from paper.rerun import FILE, OWN, check_tasks, markdown, specs


def rerun(
    options: Annotated[Options, tyro.conf.arg(name="")],
    *,
    weights: str,
    out: Path = Path("runs/tables"),
) -> int:
    """Evaluate published checkpoints, and print each row of Table 2 with the measured scores.

    Args:
        options: how the systems are evaluated.
        weights: folder with checkpoints under their official names, at any depth, or "published"
            to download all that can be downloaded.
        out: folder of the evaluation and the table; finished work in it is never repeated.
    """
    check_tasks(weights, options)
    found = specs(weights)
    print("Found: " + ", ".join(found))
    evaluation = evaluate_systems((*found.values(), *OWN), out / "rerun", options, print)
    table, file = markdown(evaluation.results, found), out / FILE
    file.write_text(table, encoding="utf-8")
    print(f"\n{table}\nTable: {file}")
    print(evaluation.outcome)
    return 1 if evaluation.failures else 0
