"""`python -m benchmarks.gpu` on a CPU: every part runs, and a second call does none again."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from torch import Tensor
from tqdm import tqdm

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import checks
from benchmarks.gpu.report import markdown
from benchmarks.gpu.sizes import REHEARSAL
from hear_axlstm.ops import torch_impl, triton_impl

pytest.importorskip("triton", reason="the parts need Triton: extra `kernels`")

ABOUT = {"machine": "a GPU", "date": "2026-11-29", "revision": "1234567"}


def rehearse(out: Path) -> list[dict]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearsal", "--minutes", "30"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "results.json").read_text("utf-8"))["parts"]


@pytest.mark.slow
def test_rehearsal_does_every_part_and_resumes(tmp_path: Path) -> None:
    records = rehearse(tmp_path)
    assert not [record for record in records if "error" in record]
    assert "Without a result" not in (tmp_path / "results.md").read_text("utf-8")
    checks = [r["result"]["passed"] for r in records if "passed" in r["result"]]
    assert len(checks) == 3 and all(checks)
    for record in records:  # each form was computed by its own backend
        if record["name"].split("/")[0] in ("embedding", "training"):
            expected = "triton" if "Triton" in record["name"] else "torch"
            assert record["result"]["backend"] == expected
    assert rehearse(tmp_path) == records  # times included: nothing ran again


def test_results_of_another_revision_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "_revision", lambda: "1234567")
    about = program._about(tmp_path, REHEARSAL)
    assert program._about(tmp_path, REHEARSAL) == about
    monkeypatch.setattr(program, "_revision", lambda: "7654321")
    with pytest.raises(SystemExit, match=r"at revision 1234567, .*: choose another --out"):
        program._about(tmp_path, REHEARSAL)


def test_results_of_an_uncommitted_change_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "_revision", lambda: "1234567-dirty")
    package = tmp_path / "package"
    for name, text in (("__init__.py", ""), ("inner/kernel.py", "TILE = 16\n")):
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text, "utf-8")
    module = ModuleType("package")
    module.__file__ = str(package / "__init__.py")
    monkeypatch.setattr(program, "MEASURED", (module,))
    about = program._about(tmp_path / "out", REHEARSAL)
    (package / "notes.txt").write_text("measured nothing", "utf-8")
    assert program._about(tmp_path / "out", REHEARSAL) == about
    (package / "inner" / "kernel.py").write_text("TILE = 32\n", "utf-8")
    with pytest.raises(SystemExit, match=r"or of other code or sizes: choose another --out"):
        program._about(tmp_path / "out", REHEARSAL)


def test_failed_checks_and_errors_are_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = {
        "kernel/16 float32": {"result": {"passed": False}},
        "self-check": {"result": {"passed": True}},
        "curve/torch float32": {"result": {"losses": [1.0]}},
        "curve/triton float32": {"error": "stopped"},
    }
    (tmp_path / "parts").mkdir()
    for name, record in records.items():
        program._file(tmp_path, name).write_text(json.dumps(record), "utf-8")
    repeated: list[str] = []
    monkeypatch.setattr(program, "_do", lambda part, *_: repeated.append(part.name))
    parts = [program.Part(name, lambda: None, 1.0, "auto") for name in [*records, "probes/new"]]
    program._run(parts, tmp_path, time.monotonic() + 600, tqdm(disable=True))
    assert repeated == ["kernel/16 float32", "curve/triton float32", "probes/new"]


def test_a_kernel_that_gives_nan_fails_its_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def nan_gradient(q: Tensor, k: Tensor, *rest: Tensor) -> Tensor:
        zero = (k - k).sqrt()  # its derivative is infinite, once more and once less
        return torch_impl.quadratic_cell(q, k + zero, *rest)

    monkeypatch.setattr(triton_impl, "quadratic_cell", torch_impl.quadratic_cell)
    assert checks.kernel_errors(REHEARSAL, 16, "float32")["passed"]
    monkeypatch.setattr(triton_impl, "quadratic_cell", nan_gradient)
    result = checks.kernel_errors(REHEARSAL, 16, "float32")
    assert math.isnan(result["errors"]["k"]) and result["errors"]["h"] < result["bound"]
    assert math.isnan(result["largest"]) and not result["passed"]


def test_a_curve_with_nan_is_not_close_to_another() -> None:
    losses = {"torch float32": [1.0, 0.9, 0.8], "triton float32": [1.0, math.nan, 0.8]}
    records = {f"curve/{name}": {"result": {"losses": x}} for name, x in losses.items()}
    text = markdown(ABOUT, list(records), records)
    assert "| triton float32 | 1: 1.0000, 2: nan, 3: 0.8000 | nan |" in text


def test_errors_and_parts_without_time_are_lines_of_the_report() -> None:
    records = {
        "embedding/axlstm_tiny/eager": {"result": {"rate": 1234.5, "mfu": 0.25, "gigabytes": 3}},
        "embedding/axlstm_tiny/Triton": {"error": "OutOfMemoryError: a | b\nmore"},
    }
    text = markdown(ABOUT, [*records, "self-check"], records)
    assert "| axlstm_tiny | 1,234.5 (25.0%; 3.0) |" in text
    assert "| embedding/axlstm_tiny/Triton | OutOfMemoryError: a / b |" in text
    assert "| self-check | no time left" in text and "1 of 3 parts done" in text
