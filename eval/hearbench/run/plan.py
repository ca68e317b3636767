"""What one evaluation consists of, where its parts lie under the output folder, and its scores.

    OUT/plan.json                                                the plan itself
    OUT/embeddings/<task>/<system>/                              see hearbench.embed
    OUT/predictions/<task>/<system>/<engine>-<grid>/seed<n>/     the probes of one seed
    OUT/results.csv, results.json                                see hearbench.results
    OUT/table.md, report/                                        see hearbench.report

<task> and <system> end in digests of data and weights, so that nothing stale is ever reused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from hearbench.probes import heareval_adapter
from hearbench.probes.heareval_adapter import Grid
from hearbench.stats import Run
from hearbench.systems.registry import Fingerprint, System
from hearbench.tasks.folders import Task

Engine = Literal["heareval", "fast"]
LOCK = ".lock"


class PlanError(ValueError):
    """An output folder that holds no usable plan."""


@dataclass(frozen=True)
class Model:
    """A system with its fingerprint."""

    system: System
    fingerprint: Fingerprint

    @property
    def slug(self) -> str:
        """Its name in file paths."""
        return f"{self.system.label}-{self.fingerprint.digest}"


@dataclass(frozen=True)
class Plan:
    """Every system on every task with every seed."""

    out: Path
    """Where everything is written."""
    models: tuple[Model, ...]
    """The systems, in the table's order."""
    tasks: tuple[Task, ...]
    """The tasks, in the table's order."""
    seeds: int
    """Probes are trained with the seeds 0 .. seeds - 1."""
    grid: Grid = "paper"
    """The search space of the probes."""
    engine: Engine = "heareval"
    """What trains the probes: the official heareval, or hearbench.probes.batched where it can."""
    only_heareval: tuple[str, ...] = ()
    """Names of the task folders that go to heareval in any case."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise PlanError(f"seeds={self.seeds}: at least one is needed")
        if self.grid not in get_args(Grid):
            raise PlanError(f"grid={self.grid!r}: choose one of {get_args(Grid)}")
        if self.engine not in get_args(Engine):
            raise PlanError(f"engine={self.engine!r}: choose one of {get_args(Engine)}")

    def engine_of(self, task: Task) -> Engine:
        """What trains the probes of `task`."""
        return "heareval" if task.path.name in self.only_heareval else self.engine

    def embeddings(self, model: Model, task: Task) -> Path:
        """The folder of one system's embeddings of one task."""
        return self.out / "embeddings" / self._pair(model, task)

    def predictions(self, model: Model, task: Task, seed: int) -> Path:
        """The folder of one run: one system, task and seed."""
        folder = self.out / "predictions" / self._pair(model, task)
        return folder / f"{self.engine_of(task)}-{self.grid}" / f"seed{seed:02d}"

    def _pair(self, model: Model, task: Task) -> Path:
        return Path(task.slug(model.fingerprint.sample_rate), model.slug)

    def runs(self) -> Iterator[Run]:
        """Every run that is finished, by system, task and seed."""
        for model in self.models:
            for task in self.tasks:
                for seed in range(self.seeds):
                    folder = self.predictions(model, task, seed)
                    if heareval_adapter.finished(folder):
                        yield _read_run(model, task, seed, folder, self.engine_of(task))

    def save(self) -> None:
        """Write the plan into its output folder."""
        self.out.mkdir(parents=True, exist_ok=True)
        file = self.out / "plan.json"
        draft = file.with_suffix(".tmp")
        draft.write_text(json.dumps(asdict(self), indent=2, default=str) + "\n")
        draft.replace(file)

    @classmethod
    def load(cls, out: Path) -> Plan:
        """Read the plan of the last evaluation in `out`.

        Raises:
            PlanError: if there is none, or an earlier version wrote it.
        """
        file = out / "plan.json"
        try:
            content = json.loads(file.read_text())
            if "engine" not in content:
                raise PlanError(
                    f"{file} is from an earlier version, which named no engine: evaluate again; "
                    "its embeddings are used, its probes are not"
                )
            models = tuple(
                Model(System(**e["system"]), Fingerprint(**e["fingerprint"]))
                for e in content["models"]
            )
            tasks = tuple(_task(entry) for entry in content["tasks"])
            return cls(
                out,
                models,
                tasks,
                content["seeds"],
                content["grid"],
                content["engine"],
                tuple(content["only_heareval"]),
            )
        except FileNotFoundError:
            raise PlanError(f"{file} is missing: evaluate first (hearbench run)") from None
        except PlanError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PlanError(f"{file} can't be read ({error}): evaluate again") from error


@contextmanager
def lock_dir(out: Path) -> Iterator[None]:
    """Hold an output folder against other evaluations; the system lets go when the process ends.

    Raises:
        PlanError: if another evaluation holds it, or it can't be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK).acquire(timeout=0)
    except Timeout:
        raise PlanError(
            f"another evaluation is at work in {out}: wait for it, stop it, or choose another --out"
        ) from None
    except OSError as error:
        raise PlanError(f"can't write to {out} ({error.strerror}): choose another --out") from None
    with lock:
        yield


def _task(entry: dict[str, Any]) -> Task:
    digests = {int(rate): digest for rate, digest in entry["digests"].items()}
    kept = {"path": Path(entry["path"]), "splits": tuple(entry["splits"]), "digests": digests}
    return Task(**{**entry, **kept})


def _read_run(model: Model, task: Task, seed: int, folder: Path, engine: Engine) -> Run:
    """The primary metric's test score as heareval gives it: the mean over folds, if any."""
    scores = json.loads((folder / heareval_adapter.SCORES).read_text())
    score = (
        scores["aggregated_scores"]["test_score_mean"]
        if "aggregated_scores" in scores
        else scores["test"]["test_score"]
    )
    seconds = json.loads((folder / heareval_adapter.DONE).read_text())["time"]
    return Run(model.system.label, task.path.name, seed, task.metric, score, seconds, engine)
