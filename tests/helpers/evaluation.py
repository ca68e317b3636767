"""A finished evaluation without computing one: heareval's files with made-up predictions."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from hearbench.probes import runs
from hearbench.run.plan import EvaluatedSystem, Plan
from hearbench.systems.fingerprint import Fingerprint
from hearbench.systems.specs import System
from hearbench.tasks.folders import Task
from hearbench.tasks.official import OFFICIAL

CLIPS = {folder: task.clips for folder, task in OFFICIAL.items()}
FOLDERS = tuple(CLIPS)
MULTILABEL = "fsd50k-v1.0-full"
STORED = 600  # predictions that are made up for a run, however many clips the task has


def task(folder: str, classes: int = 5, folds: int = 1, **changes: object) -> Task:
    """A task as its folder's name says: `<name>-<version>-<mode>`, or any other."""
    name, mode = folder.split("-")[0], folder.split("-")[-1]
    splits = tuple(f"fold{i:02d}" for i in range(folds)) if folds > 1 else ("test",)
    metric = OFFICIAL[folder].metric if folder in OFFICIAL else "top1_acc"
    made = Task(
        path=Path("tasks") / folder,
        name=name,
        mode=mode,
        metric=metric,
        folds=folds,
        clips=CLIPS.get(folder, 100),
        classes=classes,
        splits=splits,
        digests={16_000: "0123abcd"},
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def write_evaluation(
    out: Path, tasks: tuple[Task, ...], skills: Mapping[str, float], seeds: int = 3
) -> Plan:
    """A plan whose runs are finished: a system's skill is its chance to be right, in percent."""
    systems = tuple(
        EvaluatedSystem(
            System(label, "module"), Fingerprint("feed" * 3, 16_000, 4_000_000 * n, "1")
        )
        for n, label in enumerate(skills)
    )
    plan = Plan(out, systems, tasks, seeds)
    plan.save()
    rng = np.random.default_rng(0)
    for system in systems:
        for task in tasks:
            for seed in range(seeds):
                skill = skills[system.label] + rng.normal(0, 1)
                _write_run(plan.predictions(system, task, seed), task, skill / 100, rng)
    return plan


def _write_run(folder: Path, task: Task, skill: float, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    kind = "multilabel" if task.metric == "mAP" else "multiclass"
    metadata = {"embedding_type": "scene", "prediction_type": kind}
    (folder / "task_metadata.json").write_text(json.dumps(metadata), "utf-8")
    labels = [f"{i},class & {i}" for i in range(task.classes)]
    (folder / "labelvocabulary.csv").write_text("\n".join(["idx,label", *labels]) + "\n", "utf-8")
    scores = []
    for split in task.splits:
        clips = STORED // len(task.splits)
        truth = np.arange(clips) % task.classes
        target = np.eye(task.classes, dtype=np.float32)[truth]
        wrong = (truth + rng.integers(1, 3, clips)) % task.classes
        guess = np.where(rng.random(clips) < skill, truth, wrong)
        prediction = np.eye(task.classes, dtype=np.float32)[guess]
        stored = {"target": torch.from_numpy(target), "prediction": torch.from_numpy(prediction)}
        (folder / f"{split}.predictions.pkl").write_bytes(pickle.dumps(stored))
        scores.append(float((guess == truth).mean()))
    mean = {"test_score_mean": float(np.mean(scores))}
    result = {"aggregated_scores": mean} if task.folds > 1 else {"test": {"test_score": scores[0]}}
    (folder / runs.SCORES).write_text(json.dumps(result), "utf-8")
    (folder / runs.DONE).write_text(json.dumps({"time": 1.5, "gpu_device_name": "cpu"}), "utf-8")
