"""TensorFlow's stand-in: there for heareval and hear-validator, and for nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

STANDIN = Path(__file__).parents[2] / "eval" / "tensorflow_standin"


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A package by the name of an official one, one of another name, and one that runs."""
    for name in ("heareval", "other"):
        (tmp_path / name / "predictions").mkdir(parents=True)
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "predictions" / "__init__.py").touch()
        (tmp_path / name / "predictions" / "runner.py").write_text(
            "import tensorflow as tf", "utf-8"
        )
        (tmp_path / name / "__main__.py").write_text(
            "import tensorflow; import wave; print('ran')", "utf-8"
        )
    return tmp_path


def python(packages: Path, *arguments: str) -> str:
    path = os.pathsep.join([str(packages), str(STANDIN)])
    env = {k: v for k, v in os.environ.items() if k != "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"}
    found = subprocess.run(
        [sys.executable, "-S", *arguments],  # without site-packages, so without TensorFlow
        env=env | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    return found.stdout.strip() or found.stderr.strip().splitlines()[-1]


def test_only_the_official_packages_find_it(packages: Path) -> None:
    code = (
        "import heareval_compat, os\n"
        "from heareval.predictions import runner\n"
        "assert runner.tf.Module and not isinstance(3, runner.tf.Module)\n"
        "assert os.environ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] == '1'\n"
        "try: runner.tf.keras\n"
        "except AttributeError as error: assert 'stand-in' in str(error)\n"
    )
    missing = "ModuleNotFoundError: No module named 'tensorflow'"
    assert python(packages, "-c", code + "print('found')") == "found"
    assert python(packages, "-c", code + "import tensorflow") == missing
    assert python(packages, "-c", code + "from other.predictions import runner") == missing
    assert python(packages, "-c", "import heareval_compat, tensorflow") == missing
    other = "import heareval_compat, os, other.predictions\nprint(os.environ.get('TORCH_FORCE'))"
    assert python(packages, "-c", other) == "None"


def test_it_is_found_by_a_module_that_is_run(packages: Path) -> None:
    run = (
        "import heareval_compat, runpy\nrunpy.run_module({!r}, run_name='__main__', alter_sys=True)"
    )
    assert python(packages, "-c", run.format("heareval")) == "ran"
    assert python(packages, "-c", run.format("other")).startswith("ModuleNotFoundError")


def test_a_real_tensorflow_is_used(packages: Path) -> None:
    (packages / "tensorflow.py").write_text("Module = int", "utf-8")
    code = (
        "import heareval_compat\nfrom heareval.predictions import runner\nprint(runner.tf.Module)"
    )
    assert python(packages, "-c", code) == "<class 'int'>"
