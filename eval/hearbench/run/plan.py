"""The plan of an evaluation: systems, tasks and seeds, and the paths of their files.

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
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from hearbench.errors import HearbenchError
from hearbench.files import write_text
from hearbench.probes.grid import Grid
from hearbench.probes.runs import ProductType, finished, test_score
from hearbench.stats import Run
from hearbench.systems.fingerprint import Fingerprint
from hearbench.systems.specs import System
from hearbench.tasks.folders import Task

Engine = Literal["heareval", "fast"]
LOCK = ".lock"
SETTINGS = ("seeds", "grid", "engine", "only_heareval", "precision")
"""The fields of a plan that are written as they are."""


class PlanError(HearbenchError, ValueError):
    """Raised for an evaluation that can't be run or read; the message names the remedy."""


@dataclass(frozen=True)
class EvaluatedSystem:
    """A system, and what was found when it was loaded."""

    system: System
    fingerprint: Fingerprint

    @property
    def label(self) -> str:
        """Name of the system's row in the table."""
        return self.system.label

    @property
    def slug(self) -> str:
        """Name of the system in file paths, with the digest of its weights and code."""
        return f"{self.label}-{self.fingerprint.digest}"


@dataclass(frozen=True)
class Plan:
    """Every system on every task with every seed."""

    out: Path
    """Where everything is written."""
    systems: tuple[EvaluatedSystem, ...]
    """The systems, in the table's order."""
    tasks: tuple[Task, ...]
    """The tasks, in the table's order."""
    seeds: int
    """Probes are trained with the seeds 0 .. seeds - 1."""
    grid: Grid = "paper"
    """The search space of the probes."""
    engine: Engine = "heareval"
    """Trainer of the probes: the official heareval, or hearbench.probes.fast if supported."""
    only_heareval: tuple[str, ...] = ()
    """Names of the task folders that always use heareval."""
    precision: ProductType = "float32"
    """Type of the products of the engine `fast`; runs with another one count as missing. An
    evaluation by heareval keeps it for a later one by `fast`."""

    def __post_init__(self) -> None:
        if self.grid not in get_args(Grid):
            raise PlanError(f"grid={self.grid!r}: choose one of {get_args(Grid)}")
        if self.engine not in get_args(Engine):
            raise PlanError(f"engine={self.engine!r}: choose one of {get_args(Engine)}")
        if self.precision not in get_args(ProductType):
            raise PlanError(f"precision={self.precision!r}: choose one of {get_args(ProductType)}")

    def engine_of(self, task: Task) -> Engine:
        """The engine that trains the probes of `task`."""
        return "heareval" if task.path.name in self.only_heareval else self.engine

    def embeddings(self, system: EvaluatedSystem, task: Task) -> Path:
        """The folder of one system's embeddings of one task."""
        return self.out / "embeddings" / self._pair(system, task)

    def predictions(self, system: EvaluatedSystem, task: Task, seed: int) -> Path:
        """The folder of one run: one system, task and seed."""
        folder = self.out / "predictions" / self._pair(system, task)
        return folder / f"{self.engine_of(task)}-{self.grid}" / f"seed{seed:02d}"

    def finished(self, system: EvaluatedSystem, task: Task, seed: int) -> bool:
        """Whether the run of one system, task and seed is complete."""
        is_fast = self.engine_of(task) == "fast"
        return finished(self.predictions(system, task, seed), self.precision if is_fast else None)

    def _pair(self, system: EvaluatedSystem, task: Task) -> Path:
        return Path(task.slug(system.fingerprint.sample_rate), system.slug)

    def runs(self) -> Iterator[Run]:
        """Yield every finished run, by system, task and seed."""
        for system in self.systems:
            for task in self.tasks:
                for seed in range(self.seeds):
                    if self.finished(system, task, seed):
                        folder = self.predictions(system, task, seed)
                        yield _read_run(system, task, seed, folder, self.engine_of(task))

    def save(self) -> None:
        """Write the plan into its output folder."""
        self.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self._record(), indent=2, default=str) + "\n"
        write_text(self.out / "plan.json", text)

    def _record(self) -> dict[str, Any]:
        return {
            "models": [system_record(system) for system in self.systems],
            "tasks": [task_record(task) for task in self.tasks],
            **{name: getattr(self, name) for name in SETTINGS},
        }

    @classmethod
    def load(cls, out: Path) -> Plan:
        """Read the plan of the last evaluation in `out`.

        Raises:
            PlanError: if there is none, or it can't be used.
        """
        file = out / "plan.json"
        try:
            content = json.loads(file.read_text("utf-8"))
            systems = tuple(_system(entry) for entry in content["models"])
            tasks = tuple(_task(entry) for entry in content["tasks"])
            settings = {name: content[name] for name in SETTINGS}
            settings["only_heareval"] = tuple(settings["only_heareval"])
            return cls(out, systems, tasks, **settings)
        except FileNotFoundError:
            raise PlanError(f"{file} does not exist: evaluate first (hearbench run)") from None
        except PlanError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PlanError(f"{file} can't be read ({error}): evaluate again") from error


def earlier_precision(out: Path) -> ProductType | None:
    """The type of the products of earlier evaluations in `out`; None without one."""
    with suppress(PlanError):
        return Plan.load(out).precision
    return None


@contextmanager
def lock_dir(out: Path) -> Iterator[None]:
    """Lock an output folder against other evaluations; the lock ends with the process.

    Raises:
        PlanError: if another evaluation is running in it, or it can't be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK).acquire(timeout=0)
    except Timeout:
        raise PlanError(
            f"another evaluation is running in {out}: wait for it, stop it, or choose another --out"
        ) from None
    except OSError as error:
        raise PlanError(f"{out} is not writable ({error.strerror}): choose another --out") from None
    with lock:
        yield


def system_record(evaluated: EvaluatedSystem) -> dict[str, Any]:
    """A system as JSON, without the names of its source files."""
    system, found = evaluated.system, asdict(evaluated.fingerprint)
    del found["sources"]
    return {
        "system": {"label": system.label, "module": system.module, "model": system.checkpoint},
        "fingerprint": found,
    }


def task_record(task: Task) -> dict[str, Any]:
    """A task as JSON, without the contents of its files."""
    left_out = ("contents", "metadata", "labels")
    names = [f.name for f in fields(task) if f.name not in left_out]
    return {**{name: getattr(task, name) for name in names}, "path": str(task.path)}


def _system(entry: dict[str, Any]) -> EvaluatedSystem:
    named = entry["system"]
    system = System(named["label"], named["module"], named["model"])
    return EvaluatedSystem(system, Fingerprint(**entry["fingerprint"]))


def _task(entry: dict[str, Any]) -> Task:
    digests = {int(rate): digest for rate, digest in entry["digests"].items()}
    kept = {"path": Path(entry["path"]), "splits": tuple(entry["splits"]), "digests": digests}
    return Task(**{**entry, **kept})


def _read_run(system: EvaluatedSystem, task: Task, seed: int, folder: Path, engine: Engine) -> Run:
    score, seconds = test_score(folder)
    return Run(system.label, task.path.name, seed, task.metric, score, seconds, engine)
