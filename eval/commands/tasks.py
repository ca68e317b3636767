"""`python -m eval tasks`: what a folder of tasks holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from eval.tasks import Task, find_tasks


def tasks(folder: Annotated[Path, tyro.conf.Positional]) -> int:
    """List the tasks of a folder and check them.

    Args:
        folder: folder of HEAR task folders.
    """
    found = find_tasks(folder)
    width = max(len(task.path.name) for task in found)
    print(f"{'task':{width}}  {'metric':24} {'folds':>5} {'clips':>6} {'classes':>7}")
    for task in found:
        print(_line(task, width))
    return 0


def _line(task: Task, width: int) -> str:
    return (
        f"{task.path.name:{width}}  {task.metric:24} {task.folds:5} {task.clips:6} {task.classes:7}"
    )
