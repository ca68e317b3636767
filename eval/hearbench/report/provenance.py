"""Where the numbers of a report come from: systems, tasks, machine, versions, times, command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from hearbench.embed import embedded
from hearbench.machine import hardware, processor, versions
from hearbench.probes.runs import DONE
from hearbench.report.score_tables import kind
from hearbench.results import Results
from hearbench.run.plan import EvaluatedSystem, Plan
from hearbench.systems.specs import DEFAULTS, WEIGHTS, System, parse_system


@dataclass(frozen=True)
class Provenance:
    """Facts about the evaluation, and tables of its systems and tasks."""

    facts: tuple[tuple[str, str], ...]
    system_heads: tuple[str, ...]
    systems: tuple[tuple[str, ...], ...]
    task_heads: tuple[str, ...]
    tasks: tuple[tuple[str, ...], ...]


def provenance(results: Results) -> Provenance:
    """Gather the provenance from the plan, the files of the runs and this machine."""
    plan = results.plan
    probe_hours = sum(run.seconds for run in results.runs) / 3600
    facts = {
        "Command": command(plan),
        "Runs": _dates(plan),
        "Protocol": f"engine {plan.engine}, grid {plan.grid}, seeds 0 to {plan.seeds - 1}",
        "Probes": f"{len(results.runs)} runs, {probe_hours:.1f} h one after another"
        f"{_devices(plan)}",
        "Report": f"written {_day(datetime.now(timezone.utc).timestamp())} on {_machine()}",
        "Versions at the report": ", ".join(f"{name} {v}" for name, v in versions().items()),
    }
    systems = tuple(_system(plan, system, results) for system in plan.systems)
    tasks = tuple(
        (
            task.path.name,
            kind(task),
            task.metric,
            str(task.folds),
            str(task.classes),
            f"{task.clips:,}",
            ", ".join(task.digests.values()),
        )
        for task in plan.tasks
    )
    return Provenance(
        tuple(facts.items()),
        ("system", "loaded as", "digest", "parameters", "Hz", "pretrained on", "embeddings"),
        systems,
        ("task", "kind", "metric", "folds", "classes", "clips", "digest"),
        tasks,
    )


def command(plan: Plan) -> str:
    """The command that computes what `plan` holds."""
    folders = dict.fromkeys(str(task.path.parent) for task in plan.tasks)
    systems = [_spec(evaluated.system) for evaluated in plan.systems]
    words = ["hearbench", "run", "--tasks-dir", *folders]
    words += ["--tasks", *(task.path.name for task in plan.tasks), "--systems", *systems]
    words += ["--seeds", str(plan.seeds), "--engine", plan.engine, "--grid", plan.grid]
    words += ["--out", str(plan.out)]
    return shlex.join(words)


def _spec(system: System) -> str:
    """The spec of a system for `parse_system`: a short one if it is among the defaults."""
    if system.label in DEFAULTS and parse_system(system.label) == system:
        return system.label
    return f"{system.label}={system.module}" + (
        f"@{system.checkpoint}" if system.checkpoint else ""
    )


def _system(plan: Plan, evaluated: EvaluatedSystem, results: Results) -> tuple[str, ...]:
    system, found = evaluated.system, evaluated.fingerprint
    loaded = f"{system.module} {found.version}".strip()
    loaded += f" @ {system.checkpoint}" if system.checkpoint else ""
    return (
        system.label,
        loaded,
        found.digest,
        f"{found.parameters:,}" if found.parameters else "-",
        f"{found.sample_rate:,}",
        _corpus(system),
        _embedding_time(plan, evaluated),
    )


def _corpus(system: System) -> str:
    """The facts about training in the header of a .safetensors file, or of a run's, if any."""
    if system.checkpoint.endswith(".random"):
        return "not pretrained"
    if system.checkpoint.startswith("hf://"):  # a report does not use the network
        return "see its model card"
    if not system.checkpoint or WEIGHTS.fullmatch(system.checkpoint):
        return "-"  # a folder of that name would not be what was loaded
    path = Path(system.checkpoint)
    path = path / "model.safetensors" if path.is_dir() else path
    if path.suffix != ".safetensors":
        return "-"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = [json.loads(text) for text in (file.metadata() or {}).values()]
        return next(_training(m["training"]) for m in metadata if "training" in m)
    except (OSError, ValueError, TypeError, StopIteration, SafetensorError):
        return "-"


def _training(facts: Mapping[str, Any]) -> str:
    parts = []
    if "hours" in facts and "clips" in facts:
        parts.append(f"{facts['hours']:g} h, {facts['clips']:,} clips")
    if "corpus" in facts:
        parts.append(f"corpus {facts['corpus']}")
    if "steps" in facts:
        parts.append(f"{facts['steps']:,} steps")
    return ", ".join(parts) or "not recorded in the file"


def _embedding_time(plan: Plan, system: EvaluatedSystem) -> str:
    seconds = 0.0
    for task in plan.tasks:
        folder = embedded(task, plan.embeddings(system, task))
        profile = folder / "profile.embeddings.json" if folder else None
        if profile and profile.is_file():
            seconds += float(json.loads(profile.read_text("utf-8")).get("time_elapsed", 0.0))
    return f"{seconds / 60:.1f} min" if seconds else "-"


def _done_files(plan: Plan) -> list[Path]:
    return [
        file
        for system in plan.systems
        for task in plan.tasks
        for seed in range(plan.seeds)
        if (file := plan.predictions(system, task, seed) / DONE).is_file()
    ]


def _dates(plan: Plan) -> str:
    times = [file.stat().st_mtime for file in _done_files(plan)]
    if not times:
        return "none is finished"
    first, last = _day(min(times)), _day(max(times))
    return f"finished {first}" if first == last else f"finished {first} to {last}"


def _devices(plan: Plan) -> str:
    names = {json.loads(f.read_text("utf-8")).get("gpu_device_name") for f in _done_files(plan)}
    return f" on {', '.join(sorted(str(name) for name in names if name))}" if any(names) else ""


def _day(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _machine() -> str:
    found = hardware()
    parts = [f"{found['cpus']} cores", processor(), found["gpu"] or "no GPU", found["system"]]
    return ", ".join(part for part in parts if part)
