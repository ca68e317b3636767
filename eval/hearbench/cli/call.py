"""Calling a command with the arguments of the command line."""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Callable

import tyro

from hearbench.errors import HearbenchError

INTERRUPTED = 130  # the shell's exit status after Ctrl-C


def call(commands: dict[str, Callable[..., int]], prog: str, description: str | None) -> int:
    """Run the command that the arguments name; report user errors as one line.

    Args:
        commands: functions by name.
        prog: name of the program.
        description: description printed by --help.

    Returns:
        The exit code.
    """
    for command in commands.values():  # tyro would print line breaks inside descriptions
        command.__doc__ = (inspect.getdoc(command) or "").replace("\n" + 8 * " ", " ")
    # A scheduler's stop signal is treated like Ctrl-C: exit cleanly, keep finished work.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return tyro.extras.subcommand_cli_from_dict(commands, prog=prog, description=description)
    except BrokenPipeError as error:
        if not _is_stdout_open():
            return 0
        print(f"error: {error}", file=sys.stderr)
    except (HearbenchError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        text = "Interrupted. Finished work is kept; run the same command again to resume."
        print(text, file=sys.stderr)
        return INTERRUPTED
    return 2


def _is_stdout_open() -> bool:
    """Whether standard output still has a reader, unlike a pipe to a `head` that has exited.

    Without one, later output is discarded, so that Python does not complain when it exits.
    """
    try:
        print(flush=True)  # buffered output may already be lost
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True
