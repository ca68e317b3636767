"""hearbench runs without the official packages where it needs none, and asks for them at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hearbench
from hearbench.probes.official import HearevalError
from hearbench.run.evaluate import Options, make_plan
from tests.helpers.hear_task import write_task

PACKAGE = Path(hearbench.__file__).parent
OPTIONAL = ("hear_axlstm", "heareval", "pytorch_lightning", "intervaltree", "tensorflow")


@pytest.mark.slow
def test_the_fast_engine_needs_no_official_package(tmp_path: Path) -> None:
    """As in an environment where only hearbench is installed."""
    lines = ["import sys", *(f"sys.modules[{name!r}] = None" for name in OPTIONAL)]
    (tmp_path / "sitecustomize.py").write_text("\n".join(lines), "utf-8")
    write_task(tmp_path / "tasks" / "tones")
    path = os.pathsep.join([str(tmp_path), str(PACKAGE.parent)])

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hearbench", "run", "--systems", "naive", "--seeds", "1"]
        command += ["--tasks-dir", str(tmp_path / "tasks"), "--out", str(tmp_path / "out"), *more]
        env = os.environ | {"PYTHONPATH": path}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    done = run("--engine", "fast")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "| naive |" in done.stdout and "Next: hearbench score" in done.stdout
    refused = run("--engine", "heareval")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "needs the official heareval, and heareval is not installed: pip" in refused.stderr


def test_event_tasks_ask_for_heareval_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_task(tmp_path / "tasks" / "tones", embedding_type="event")
    for split in ("train", "valid", "test"):
        (path / f"{split}.json").write_text('{"x.wav": []}', "utf-8")
    monkeypatch.setitem(sys.modules, "heareval", None)
    with pytest.raises(HearevalError, match="the task tones needs the official heareval"):
        make_plan(("naive",), tmp_path / "out", Options(tmp_path / "tasks", engine="fast"), print)
