"""`python -m paper rerun`: published checkpoints of Table 2's systems, evaluated again."""

from __future__ import annotations

from pathlib import Path

from hearbench.cli.run import run
from hearbench.exit_codes import INTERRUPTED
from hearbench.results import collect
from hearbench.run.plan import Engine, Plan
from paper.rerun import FILE, OWN, markdown, specs


def rerun(
    *,
    weights: str,
    tasks_dir: Path | None = None,
    tasks: tuple[str, ...] = (),
    seeds: int = 10,
    out: Path = Path("runs/tables"),
    jobs: int | None = None,
    engine: Engine = "heareval",
) -> int:
    """Evaluate published checkpoints, and print each row of Table 2 with what came out here.

    Args:
        weights: folder with checkpoints under their official names, at any depth, or "published"
            to download all that can be downloaded.
        tasks_dir: folder of HEAR task folders; without it ten miniature tasks are generated.
        tasks: names of the tasks, all of the folder if none.
        seeds: how many seeds, from 0 on.
        out: folder of the evaluation and the table; what is finished there is never repeated.
        jobs: evaluation steps at the same time, see `hearbench run`.
        engine: what trains the probes, see `hearbench run`.
    """
    found = specs(weights)
    print("Found: " + ", ".join(found))
    place = out / "rerun"
    status = run(
        tasks_dir=tasks_dir,
        tasks=tasks,
        systems=(*found.values(), *OWN),
        seeds=seeds,
        out=place,
        jobs=jobs,
        engine=engine,
    )
    if status != INTERRUPTED:
        file = out / FILE
        file.write_text(markdown(collect(Plan.load(place.resolve())), found), encoding="utf-8")
        print(f"\n{file.read_text(encoding='utf-8')}\nTable: {file}")
    return status
