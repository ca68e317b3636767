"""Which jobs a plan makes, for which engine; one evaluation a folder; what a kill leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tqdm import tqdm

from hearbench.embed.files import EMBEDDED, embedded
from hearbench.probes import fast, official
from hearbench.probes.runs import DONE, SCORES, finished
from hearbench.run import evaluate, sweep, workers
from hearbench.run.plan import (
    Engine,
    EvaluatedSystem,
    Plan,
    PlanError,
    earlier_precision,
    lock_dir,
)
from hearbench.run.workers import Failure, Job, SweepError, attempt
from hearbench.systems import fingerprint
from hearbench.systems.fingerprint import Fingerprint
from hearbench.systems.specs import SystemSpecError, parse_system
from hearbench.tasks.audio import with_audio
from hearbench.tasks.description import TaskError
from hearbench.tasks.folders import find_tasks
from tests.helpers.hear_task import write_task
from tests.helpers.platforms import die, posix_only

ROOT = Path(__file__).parents[3]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two embedded tasks, three seeds, by the fast engine; one of the tasks is heareval's."""
    for name in ("events", "scenes[v1]"):
        write_task(tmp_path / "tasks" / name)
    tasks = tuple(with_audio(task, [16_000]) for task in find_tasks(tmp_path / "tasks"))
    system = EvaluatedSystem(parse_system("naive"), Fingerprint("0", 16_000, 0, ""))
    plan = Plan(tmp_path / "out", (system,), tasks, 3, engine="fast", only_heareval=("events",))
    for task in tasks:
        done = plan.embeddings(system, task) / "module" / task.path.name / EMBEDDED
        done.parent.mkdir(parents=True)
        done.touch()
    return plan


def finish(folder: Path, precision: str = "float32") -> None:
    folder.mkdir(parents=True)
    (folder / SCORES).write_text('{"test": {"test_score": 0.5}}', "utf-8")
    (folder / DONE).write_text(json.dumps({"time": 1.0, "precision": precision}), "utf-8")


def jobs_of(plan: Plan, monkeypatch: pytest.MonkeyPatch, workers: int = 1) -> list[Job]:
    jobs: list[Job] = []
    monkeypatch.setattr(sweep, "run", lambda todo, *_rest: jobs.extend(todo) or [])
    assert sweep.sweep(plan, workers) == []
    return jobs


def test_fast_takes_all_missing_seeds_of_a_task(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(plan.predictions(plan.systems[0], plan.tasks[1], 1))
    ours, *theirs = jobs_of(plan, monkeypatch)
    embeddings, folders, grid, log, precision = ours.arguments
    assert ours.function is fast.train_and_test and (grid, precision) == ("paper", "float32")
    assert embeddings == embedded(plan.tasks[1], plan.embeddings(*pair(plan, 1)))
    assert folders == {seed: plan.predictions(*pair(plan, 1), seed) for seed in (0, 2)}
    assert log.parent.name == "fast-paper" and ours.folders == tuple(folders.values())
    assert [job.function for job in theirs] == [official.train_and_test] * 3
    assert [list(job.arguments[1]) for job in theirs] == [[0], [1], [2]]
    assert [job.folders[0].name for job in theirs] == ["seed00", "seed01", "seed02"]
    assert {job.folders[0].parent.name for job in theirs} == {"heareval-paper"}


def test_embeddings_are_made_only_for_missing_runs(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be deleted once all runs are finished."""
    plan = replace(plan, seeds=2)
    shutil.rmtree(plan.out / "embeddings")
    for number, seeds in ((0, 2), (1, 1)):
        for seed in range(seeds):
            finish(plan.predictions(*pair(plan, number), seed))
    assert [job.arguments[1] for job in jobs_of(plan, monkeypatch)] == [plan.tasks[1]]


def test_seeds_are_shared_among_idle_workers(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    two = [job for job in jobs_of(plan, monkeypatch, 2) if job.function is fast.train_and_test]
    assert [list(job.arguments[1]) for job in two] == [[0, 2], [1]]
    assert len({job.log for job in two}) == 2
    many = [job for job in jobs_of(plan, monkeypatch, 64) if job.function is fast.train_and_test]
    assert [list(job.arguments[1]) for job in many] == [[0], [1], [2]]


def test_what_fast_is_asked(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(fast, "supports", lambda metadata: metadata["task_name"] != "events")
    monkeypatch.setattr(fast, "train_and_test", lambda *arguments: calls.append(arguments))
    assert evaluate._only_heareval(plan.tasks, "fast") == plan.only_heareval
    first, *_ = jobs_of(plan, monkeypatch)
    assert attempt(first) is None
    assert calls == [first.arguments] and first.arguments[-2] == first.log


def pair(plan: Plan, task: int) -> tuple[EvaluatedSystem, Any]:
    return plan.systems[0], plan.tasks[task]


def test_engines_never_mix(plan: Plan) -> None:
    """What one engine finished is nothing to the other; each run says whose it is."""
    for number in (0, 1):
        finish(plan.predictions(*pair(plan, number), 0))
    plan.save()
    assert Plan.load(plan.out) == plan
    assert {(run.task, run.engine) for run in plan.runs()} == {
        ("events", "heareval"),
        ("scenes[v1]", "fast"),
    }
    other = Plan(plan.out, plan.systems, plan.tasks, 3, engine="heareval")
    assert {(run.task, run.engine) for run in other.runs()} == {("events", "heareval")}


def test_a_plan_s_file(plan: Plan) -> None:
    """The keys stay, so that earlier evaluations can be read."""
    system = replace(plan.systems[0].system, checkpoint="a.pt")
    plan = replace(plan, systems=(replace(plan.systems[0], system=system),))
    plan.save()
    content = json.loads((plan.out / "plan.json").read_text("utf-8"))
    assert list(content) == [
        *("models", "tasks", "seeds", "grid", "engine", "only_heareval", "precision")
    ]
    assert content["models"] == [
        {
            "system": {"label": "naive", "module": "hearbench.systems.naive", "model": "a.pt"},
            "fingerprint": {"digest": "0", "sample_rate": 16_000, "parameters": 0, "version": ""},
        }
    ]
    assert Plan.load(plan.out) == plan


def test_types_of_products_never_mix(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of `fast` with products of another type is missing; heareval's has no type."""
    folders = [plan.predictions(*pair(plan, 1), seed) for seed in range(3)]
    for seed, precision in enumerate(("float32", "bfloat16", "bfloat16")):
        finish(folders[seed], precision)
    finish(plan.predictions(*pair(plan, 0), 0), "none")
    rounded = replace(plan, precision="bfloat16")
    assert [(r.engine, r.seed) for r in plan.runs()] == [("heareval", 0), ("fast", 0)]
    assert [(r.engine, r.seed) for r in rounded.runs()] == [
        ("heareval", 0),
        ("fast", 1),
        ("fast", 2),
    ]
    first, *_ = jobs_of(rounded, monkeypatch)
    assert first.arguments[1] == {0: folders[0]} and first.arguments[-1] == "bfloat16"
    rounded.save()
    assert Plan.load(plan.out) == rounded and earlier_precision(plan.out) == "bfloat16"


def test_the_type_of_products_is_measured_once(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter(("bfloat16", "float32"))
    monkeypatch.setattr(fast, "fastest_precision", lambda: next(measured))
    monkeypatch.setattr(evaluate, "fingerprints", lambda _: [plan.systems[0].fingerprint])
    monkeypatch.setattr(evaluate, "check_installed", lambda why: None)

    def type_in(out: str, engine: Engine = "fast") -> str:
        options = evaluate.Options(tmp_path / "tasks", engine=engine)
        made = evaluate.make_plan(("naive",), tmp_path / out, options, print)
        assert Plan.load(made.out) == made
        return made.precision

    assert [type_in("one"), type_in("one", "heareval"), type_in("one")] == ["bfloat16"] * 3
    assert type_in("two") == "float32"


def test_plans_without_a_valid_engine_are_refused(plan: Plan) -> None:
    plan.save()
    file = plan.out / "plan.json"
    file.write_text(file.read_text("utf-8").replace('"engine"', '"motor"'), "utf-8")
    with pytest.raises(PlanError, match=r"can't be read \('engine'\): evaluate again"):
        Plan.load(plan.out)
    with pytest.raises(PlanError, match="engine='slow'"):
        Plan(plan.out, plan.systems, plan.tasks, 3, engine="slow")  # type: ignore[arg-type]


def test_bad_names_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "write_tasks", None)
    monkeypatch.setattr(fingerprint, "ProcessPoolExecutor", None)

    def plan_of(*systems: str, tasks: tuple[str, ...] = ()) -> None:
        options = evaluate.Options(tasks=tasks, engine="fast")
        evaluate.make_plan(systems, tmp_path / "out", options, print)

    with pytest.raises(SystemSpecError, match="no module 'naif': use one of naive, spectrum"):
        plan_of("naive", "naif")
    with pytest.raises(TaskError, match="unknown task 'esc': choose from percussion-mini"):
        plan_of("naive", tasks=("tonics-mini", "esc"))
    assert not (tmp_path / "out").exists()


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from hearbench.run.evaluate import Options, evaluate_systems\n"
        'options = Options(engine="fast")\n'
        'evaluate_systems(("naive",), Path("out"), options, print)\n',
        "utf-8",
    )
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode
    assert 'call it under if __name__ == "__main__":' in done.stderr


def test_one_evaluation_a_folder(tmp_path: Path) -> None:
    with lock_dir(tmp_path / "out"):
        message = r"another evaluation is running in .*/out"
        with pytest.raises(PlanError, match=message), lock_dir(tmp_path / "out"):
            pass
        with lock_dir(tmp_path / "elsewhere"):
            pass
    with lock_dir(tmp_path / "out"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(PlanError, match="is not writable"), lock_dir(tmp_path / "file"):
        pass


def test_a_backend_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SweepError, match=r"--backend ray is not installed .*'./eval\[ray\]'"):
        workers.run([], 1, "ray", tqdm(disable=True), lambda: 0.0)


def test_a_dask_worker_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs in one process would share its random state and its output."""
    address = SimpleNamespace(get=lambda *_: "tcp://head:8786")
    client = nullcontext(SimpleNamespace(nthreads=lambda: {"a": 1, "b": 4}))
    monkeypatch.setitem(sys.modules, "dask", SimpleNamespace(config=address))
    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(Client=lambda: client))
    with pytest.raises(SweepError, match=r"tcp://head:8786 has 4 threads.*--nthreads 1"):
        workers.run([], 1, "dask", tqdm(disable=True), lambda: 0.0)


def test_a_process_runs_one_job_at_a_time(tmp_path: Path) -> None:
    busy = threading.Lock()

    def work() -> None:
        assert busy.acquire(blocking=False)
        time.sleep(0.05)
        busy.release()

    jobs = [Job(str(n), (tmp_path / str(n),), tmp_path / "log", work, ()) for n in range(2)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(attempt, jobs)) == [None, None]


def note(folder: Path) -> None:
    (folder.parent / f"{folder.name}-{os.getpid()}").touch()


def test_jobs_run_in_other_processes(tmp_path: Path) -> None:
    """Also for one worker: a job redirects its process's output, and may be killed."""
    jobs = [
        Job(str(n), (tmp_path / str(n),), tmp_path / "log", note, (tmp_path / str(n),))
        for n in range(3)
    ]
    assert workers.run(jobs, 1, "loky", tqdm(disable=True), lambda: 0.0) == []
    pids = {file.name.split("-")[1] for file in tmp_path.glob("?-*")}
    assert len(pids) == 1 and str(os.getpid()) not in pids
    killed = [Job("killed", (tmp_path / "k",), tmp_path / "log", die, (tmp_path / "k",))]
    with pytest.raises(SweepError, match="a worker process died, perhaps out of memory"):
        workers.run(killed, 1, "loky", tqdm(disable=True), lambda: 0.0)
    unsent = [Job("unsent", (tmp_path / "u",), tmp_path / "log", note, (threading.Lock(),))]
    with pytest.raises(SweepError, match=r"--backend loky failed \(.*Error: .*pickle"):
        workers.run(unsent, 1, "loky", tqdm(disable=True), lambda: 0.0)


def test_a_job_that_fails_leaves_its_traceback(tmp_path: Path) -> None:
    log = tmp_path / "made" / "folder" / "log"
    job = Job("a job", (tmp_path / "other" / "folder",), log, int, ("three",))
    assert attempt(job) == Failure(
        "a job",
        "ValueError: invalid literal for int() with base 10: 'three'",
        log,
    )
    assert "Traceback" in log.read_text("utf-8")


def children(parent: int) -> set[int]:
    listed = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True).stdout
    pairs = [line.split() for line in listed.splitlines()[1:]]
    return {int(pid) for pid, above in pairs if int(above) == parent}


@posix_only  # it looks into /proc
@pytest.mark.slow
def test_kill_and_go_on(tmp_path: Path) -> None:
    """After `kill -9` no worker lives on; the same command repeats nothing that was finished."""
    pytest.importorskip("heareval", reason="heareval is not installed: make setup")
    write_task(tmp_path / "tasks" / "tones")
    run = [
        *(sys.executable, "-m", "hearbench", "run", "--tasks-dir", str(tmp_path / "tasks")),
        *("--systems", "naive", "--seeds", "8", "--jobs", "1", "--out", str(tmp_path / "out")),
    ]
    process = subprocess.Popen(run, cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob(f"out/predictions/**/{DONE}")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    refused = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2 and "another evaluation is running" in refused.stderr
    alive = children(process.pid)
    assert alive
    process.kill()
    process.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in alive):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    plan = Plan.load(tmp_path / "out")
    folders = [plan.predictions(*pair(plan, 0), seed) for seed in range(8)]
    times = {f: (f / DONE).stat().st_mtime_ns for f in folders if finished(f)}
    assert 0 < len(times) < 8
    done = embedded(plan.tasks[0], plan.embeddings(*pair(plan, 0)))
    assert done is not None
    made = (done / EMBEDDED).stat().st_mtime_ns
    assert subprocess.run(run, cwd=ROOT, capture_output=True).returncode == 0
    assert all(map(finished, folders))
    assert {f: (f / DONE).stat().st_mtime_ns for f in times} == times
    assert (done / EMBEDDED).stat().st_mtime_ns == made
    for folder in folders:
        assert (folder / "prediction.log").read_text("utf-8").count("Computing predictions") == 1
