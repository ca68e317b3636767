"""`python -m benchmarks.gpu`: one GPU, checked and measured in under eight minutes.

Every part runs in a process that is stopped after its time; an error becomes a line of the report,
and the other parts run. The folder holds one file per part, results.json and results.md. Running
the command again completes the parts without a result, and repeats failed checks; after a change of
the code it needs another folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from tqdm import tqdm

import benchmarks
import hear_axlstm
import hearbench
from benchmarks.gpu import checks, probes, speed
from benchmarks.gpu.bounded import Worker, WorkError
from benchmarks.gpu.report import markdown
from benchmarks.gpu.sizes import GPU, REHEARSAL, Sizes
from benchmarks.timing import machine
from hear_axlstm.files import write_text
from hearbench.digests import digest_of
from hearbench.tasks.official import OFFICIAL
from tests import reference

LEAST_SECONDS = 5.0  # a part is not begun with less time left
MEASURED = (benchmarks, hear_axlstm, hearbench, reference)
START_SECONDS = 60.0  # for a new process to import everything
BACKENDS = {
    "eager": "torch",
    "compiled": "torch",
    "Triton": "triton",
    "Triton, compiled": "triton",
}


@dataclass(frozen=True)
class Part:
    """One measurement."""

    name: str
    """Kind/case, unique."""
    work: Callable[[], Any]
    seconds: float
    """Time after which it is stopped."""
    backend: str
    """HEAR_AXLSTM_BACKEND of its process."""


def main(out: Path = Path("runs/gpu"), minutes: float = 8.0, rehearsal: bool = False) -> None:
    """Check and measure, and write JSON and Markdown.

    Args:
        out: Folder of the results; parts that are done in it are skipped.
        minutes: Time after which no part runs.
        rehearsal: Run every part on the CPU with toy sizes, Triton by its interpreter.
    """
    end = time.monotonic() + 60 * minutes
    if rehearsal:  # before anything reads these; the parts' processes inherit them
        os.environ |= {
            "TRITON_INTERPRET": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",  # the interpreter is not safe for threads
        }
    elif not torch.cuda.is_available():
        raise SystemExit("no GPU is available: add --rehearsal to run the parts on the CPU")
    sizes = REHEARSAL if rehearsal else GPU
    about = _about(out, sizes)
    first, rest = _checks_of_kernels(sizes), list(_parts(sizes))
    parts = [*first, *rest]
    with tqdm(total=len(parts), unit="part", disable=None) as bar:
        if not rehearsal:  # several at the same time: most of it is Triton's compiling
            with ThreadPoolExecutor(len(first)) as pool:
                list(pool.map(lambda part: _run([part], out, end, bar), first))
        _run(parts if rehearsal else rest, out, end, bar)
    _report(about, [part.name for part in parts], out)


def _checks_of_kernels(sizes: Sizes) -> list[Part]:
    return [
        Part(
            f"kernel/{size} {precision}",
            partial(checks.kernel_errors, sizes, size, precision),
            150,
            "auto",
        )
        for size in sizes.head_sizes
        for precision in checks.BOUNDS
    ]


def _parts(sizes: Sizes) -> Iterator[Part]:
    """Yield the parts, the most important ones first, grouped by backend."""
    yield Part("self-check", partial(checks.self_check, sizes), 60, "auto")
    for backend in ("triton", "torch"):
        for precision in ("bfloat16", "float32"):
            work = partial(checks.curve, sizes, precision)
            yield Part(f"curve/{backend} {precision}", work, 40, backend)
        form = "Triton" if backend == "triton" else "eager"
        yield from _speeds(sizes, form, 40)
    for task in OFFICIAL.values():
        work = partial(probes.probes, sizes, task)
        yield Part(f"probes/{task.folder}", work, 30, "torch")
    for form in speed.COMPILED:
        yield from _speeds(sizes, form, 60)


def _speeds(sizes: Sizes, form: str, seconds: float) -> Iterator[Part]:
    for preset, config in sizes.presets.items():
        if BACKENDS[form] == "triton" and config.architecture != "axlstm":
            continue  # a transformer has no such cell
        for kind in (speed.embedding, speed.training):
            name = f"{kind.__name__}/{preset}/{form}"
            yield Part(name, partial(kind, sizes, preset, form), seconds, BACKENDS[form])


def _run(parts: list[Part], out: Path, end: float, bar: tqdm) -> None:
    """Run the parts that are not done yet, until the time ends."""
    worker: Worker | None = None
    backend = ""
    try:
        for part in parts:
            left = end - time.monotonic()
            if not _is_done(_record(out, part.name)) and left > LEAST_SECONDS:
                if worker is not None and backend != part.backend:
                    worker.close()
                    worker = None
                if worker is None:
                    backend = part.backend
                    worker = Worker({"HEAR_AXLSTM_BACKEND": backend})
                worker = _do(part, worker, end, out)
            bar.update()
    finally:
        if worker is not None:
            worker.close()


def _do(part: Part, worker: Worker, end: float, out: Path) -> Worker | None:
    """Write a part's result or error; returns the worker if it can be used again."""
    start = time.monotonic()
    record: dict[str, Any] = {"name": part.name}
    try:
        limit = part.seconds if worker.is_warm else part.seconds + START_SECONDS
        record["result"] = worker.run(part.work, min(limit, end - start))
    except WorkError as error:
        record["error"] = str(error)
        tqdm.write(f"{part.name}: {error}")
    record["seconds"] = time.monotonic() - start
    write_text(_file(out, part.name), json.dumps(record, indent=1))
    return worker if "result" in record else None


def _about(out: Path, sizes: Sizes) -> dict[str, Any]:
    """Describe what is measured; reject a folder with results of another machine or other code."""
    device = machine(torch.device(sizes.device))
    about = {"machine": device, "sizes": repr(sizes), "revision": _revision(), "code": _code()}
    file = out / "about.json"
    if file.exists():
        known = json.loads(file.read_text("utf-8"))
        if any(known.get(key) != value for key, value in about.items()):
            raise SystemExit(
                f"{out} has results of {known['machine']} at revision {known['revision']}, or of "
                "other code or sizes: choose another --out"
            )
        return known
    about["date"] = time.strftime("%Y-%m-%d")
    (out / "parts").mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(about, indent=1))
    return about


def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _code() -> str:
    """Digest of the files of `MEASURED`: changes that are not committed differ in it."""
    total = hashlib.sha256()
    for folder in (Path(str(package.__file__)).parent for package in MEASURED):
        for file in sorted(folder.rglob("*")):
            if file.suffix in (".py", ".so"):
                total.update(file.relative_to(folder).as_posix().encode() + digest_of(file))
    return total.hexdigest()[:12]


def _file(out: Path, name: str) -> Path:
    return out / "parts" / (name.replace("/", "--").replace(" ", "_") + ".json")


def _record(out: Path, name: str) -> dict[str, Any]:
    try:
        return json.loads(_file(out, name).read_text("utf-8"))
    except FileNotFoundError:
        return {}


def _is_done(record: dict[str, Any]) -> bool:
    """Whether a part has a result and, if it is a check, has passed."""
    return "result" in record and record["result"].get("passed", True)


def _report(about: dict[str, Any], names: list[str], out: Path) -> None:
    records = {name: record for name in names if (record := _record(out, name))}
    content = json.dumps(about | {"parts": list(records.values())}, indent=1)
    write_text(out / "results.json", content)
    text = markdown(about, names, records)
    write_text(out / "results.md", text)
    print(text)


if __name__ == "__main__":
    tyro.cli(main)
