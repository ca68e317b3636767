"""The command line of hearbench, as a user types it."""

from __future__ import annotations

import ast
import io
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import tyro

from hearbench import cli, progress
from hearbench.cli.call import call
from hearbench.errors import HearbenchError
from hearbench.progress import Progress


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, list(cli.COMMANDS)),
        ([], 2, ["usage: hearbench COMMAND"]),
        (["--version"], 0, ["hearbench 0.", "torch 2."]),
        (["scores"], 2, ["unknown command 'scores': did you mean score?"]),
        (["xyz"], 2, ["choose one of fetch-tasks, tasks"]),
    ],
)
def test_the_overview_needs_no_torch(arguments: list[str], code: int, words: list[str]) -> None:
    script = (
        "import sys; from hearbench import cli; sys.argv = ['hearbench', *sys.argv[1:]]\n"
        "try: sys.exit(cli.main())\n"
        "finally: assert not {'torch', 'tyro', 'pandas'} & set(sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        cwd=Path(cli.__file__).parents[2],
    )
    assert found.returncode == code, found.stderr
    for word in words:
        assert word in found.stdout + found.stderr


def test_every_command_has_a_function_of_its_name() -> None:
    files = {path.stem.replace("_", "-") for path in Path(cli.__file__).parent.glob("*.py")}
    assert files - {"--init--", "call"} == set(cli.COMMANDS)
    for name in cli.COMMANDS:
        assert callable(cli.load(name))


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_shows_no_empty_defaults(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(cli.load(name), args=["--help"])
    assert not re.search(r"\{None\}|\(default: (None)?\)", capsys.readouterr().out)


def public_errors() -> Iterator[type[Exception]]:
    package = Path(cli.__file__).parents[1]
    for file in package.rglob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and re.fullmatch(r"[A-Z]\w*Error", node.name):
                parts = file.relative_to(package.parent).with_suffix("").parts
                yield getattr(import_module(".".join(parts)), node.name)


def test_every_error_is_one_line_for_the_user(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hearbench", "fail"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    found = list(public_errors())
    assert len(found) > 10

    def fail() -> int:
        raise kind("what is wrong: the remedy")

    for kind in found:
        assert issubclass(kind, HearbenchError)
        assert call({"fail": fail}, "hearbench", None) == 2
        assert capsys.readouterr().err == "error: what is wrong: the remedy\n"


@pytest.mark.parametrize("leave", [True, False])
def test_progress_is_written_as_lines_in_a_log(
    leave: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(progress, "SECONDS_A_LINE", 0.0)
    list(Progress(range(3), "embedding", unit="clip", leave=leave))
    lines = log.getvalue().splitlines()
    assert "\r" not in log.getvalue() and len(lines) == 3 + leave
    assert lines[-1].startswith("embedding: 3/3 clips [00:00<00:00")
    monkeypatch.setattr(progress, "SECONDS_A_LINE", 60.0)
    list(Progress(range(3), "probes", unit="run", leave=leave))
    assert len(log.getvalue().splitlines()) == len(lines) + leave
