"""`hearbench run`: evaluate systems on tasks and write the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from hearbench import report as reports
from hearbench.cli.call import INTERRUPTED
from hearbench.results import Results, collect
from hearbench.run.evaluate import Options, evaluate, make_plan
from hearbench.run.plan import lock_dir
from hearbench.run.workers import Failure


def run(
    options: Annotated[Options, tyro.conf.arg(name="")],
    systems: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="SYSTEM ...", help_behavior_hint="")
    ] = (),
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/eval"),
) -> int:
    """Evaluate systems on tasks with several seeds; finished runs are never repeated.

    Args:
        options: how systems are evaluated.
        systems: NAME or NAME@CHECKPOINT (`hearbench systems` lists the names), weights such as
            axlstm_base.audioset, or [LABEL=]MODULE[@MODEL] for any other HEAR module. (default:
            naive, spectrum, logmel, random, ssast_tiny and axlstm_tiny)
        out: output folder.
    """
    return evaluate_systems(systems, out, options, reports.write)


def evaluate_systems(
    systems: tuple[str, ...], out: Path, options: Options, write: Callable[[Results], object]
) -> int:
    """Evaluate systems in a folder and write the results; returns the exit status."""
    with lock_dir(out):
        plan = make_plan(systems, out, options, print)
        try:
            failures = evaluate(plan, options, _print_table)
        except KeyboardInterrupt:
            print("Interrupted. Finished work is kept; run the same command again to resume.")
            return INTERRUPTED
        write(collect(plan))
        return _conclude(out, failures)


def _print_table(results: Results) -> None:
    """Print the scores and write table.md."""
    print("\n" + reports.write_table(results))


def _conclude(out: Path, failures: list[Failure]) -> int:
    """Print failures, the location of the results and the next step; returns the exit status."""
    for failure in failures:
        print(f"Failed: {failure.name}: {failure.error}\n  log: {failure.log}")
    print(f"Report: {out}/report/report.html; scores: table.md, results.csv and results.json.")
    if failures:
        print(f"{len(failures)} failed: fix the cause, then run the same command again.")
        return 1
    print(f"Next: hearbench score {out}, or hearbench run with other --systems or more --seeds")
    return 0
