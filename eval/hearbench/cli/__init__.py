"""Evaluate audio embeddings on HEAR tasks: `hearbench COMMAND`, with one file per command.

The list of commands, the version and unknown commands are handled without loading PyTorch; the
modules of commands are imported when one is called.
"""

from __future__ import annotations

import difflib
import importlib
import platform
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version

COMMANDS = {
    "fetch-tasks": "Download and resample the official tasks.",
    "tasks": "List the ten official tasks, and check those in a folder.",
    "systems": "List the systems that come with hearbench, or describe one.",
    "weights": "List and download published checkpoints of other systems.",
    "run": "Evaluate systems on tasks with several seeds.",
    "report": "Rewrite the report of an evaluation.",
    "score": "Print the aggregated scores s(m).",
}
"""Names and one-line descriptions, in the order of use."""


def main() -> int:
    """Entry point of `hearbench`; returns the exit code."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("", "-h", "--help"):
        print(overview())
        return 0 if name else 2
    if name in ("-V", "--version"):
        python, system = platform.python_version(), platform.platform(terse=True)
        around = f"Python {python}, torch {version('torch')}, {system}"
        print(f"hearbench {version('hearbench')} ({around})")
        return 0
    if name not in COMMANDS and not name.startswith("--tyro"):
        print(f"error: {unknown('command', name, COMMANDS)}", file=sys.stderr)
        return 2
    from hearbench.cli.call import call

    commands = {command: load(command) for command in ([name] if name in COMMANDS else COMMANDS)}
    return call(commands, "hearbench", __doc__)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The error for an unknown name, suggesting the closest one or listing all."""
    names = list(known)
    close = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(names)}"
    return f"unknown {what} {name!r}: {hint}"


def overview() -> str:
    """The text of `hearbench --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hearbench COMMAND ...",
            "",
            "Evaluate audio embeddings on HEAR tasks.",
            "",
            *lines,
            "",
            "hearbench COMMAND --help lists the options of a command; hearbench --version prints",
            "the version.",
        ]
    )


def load(name: str) -> Callable[..., int]:
    """Import the function of a command."""
    module = name.replace("-", "_")
    return getattr(importlib.import_module(f"hearbench.cli.{module}"), module)
