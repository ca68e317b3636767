"""`hearbench tasks`: list the ten official tasks, and check those in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from hearbench.options import option
from hearbench.tasks.check import ValidationReport, check_task
from hearbench.tasks.folders import task_folders
from hearbench.tasks.official import LICENSES, OFFICIAL

HEADS = ("task", "state", "metric", "folds", "classes", "clips", "hours", "license")
LINE = "{:34}{:8}{:10}{:>6}{:>8}{:>7}{:>7}  {}"
SHOWN = 20  # problems of one task


def tasks(
    folder: Annotated[Path | None, tyro.conf.Positional, option("[FOLDER]")] = None,
) -> int:
    """List the ten tasks of the paper, and check those in a folder file by file.

    A task "differs" if it is valid but its clip or class counts are not the published ones.

    Args:
        folder: Folder of HEAR task folders; without it the ten tasks are only listed.
    """
    paths = task_folders(folder) if folder is not None else []
    found = {path.name: check_task(path) for path in paths}
    print(LINE.format(*HEADS))
    for name in dict.fromkeys([*OFFICIAL, *found]):
        print(_row(name, found.get(name), "missing" if folder else "-"))
    print(f"\nThe licenses are those of the original datasets: {LICENSES}")
    broken = {name: findings.problems for name, findings in found.items() if findings.problems}
    for name, problems in broken.items():
        print(f"\n{name} is broken:", *problems[:SHOWN], sep="\n  ")
        if len(problems) > SHOWN:
            print(f"  and {len(problems) - SHOWN:,} more")
    if folder is None:
        print("Next: hearbench fetch-tasks --help")
    elif missing := [name for name in OFFICIAL if name not in found]:
        print(f"{len(missing)} of the ten are missing. Next: hearbench fetch-tasks --help")
    elif not broken:
        print(f"Next: hearbench run --tasks-dir {folder}")
    return 1 if broken else 0


def _row(name: str, found: ValidationReport | None, state: str) -> str:
    """A task's own numbers if it exists and is valid, else the published ones, with a state."""
    official = OFFICIAL.get(name)
    published = official and (official.metric, official.folds, official.classes, official.clips)
    numbers = published or ("-",) * 4
    if found is not None and found.problems:
        state = "broken"
    elif found is not None and found.task is not None:
        task = found.task
        numbers = (task.metric, task.folds, task.classes, task.clips)
        state = "ok" if published in (None, numbers) else "differs"
    rest = (f"{official.hours:.1f}", official.license or "unknown") if official else ("-", "-")
    return LINE.format(name, state, *numbers, *rest)
