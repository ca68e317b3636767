"""Work in a process of its own, which ends when the work takes too long or fails."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

CONTEXT = multiprocessing.get_context("spawn")


class WorkError(RuntimeError):
    """Work that failed, took too long, or ended its process; the message says which."""


class Worker:
    """A process that does one piece of work after another.

    Args:
        environment: variables to set in it before anything is imported that reads them.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.is_warm = False
        """Whether it has answered before: the first work also waits for imports."""
        self._connection, there = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_serve, args=(there, dict(environment)))
        self._process.start()
        there.close()

    def run(self, work: Callable[[], Any], seconds: float) -> Any:
        """Run `work`, which must be picklable, in the worker and return its result.

        After an error the worker is closed: a failed kernel leaves a GPU's context unusable.

        Raises:
            WorkError: with the work's error, or if it takes more than `seconds`.
        """
        try:
            succeeded, answer = self._answer(work, seconds)
        except BaseException:
            self.close()
            raise
        if not succeeded:
            self.close()
            raise WorkError(answer)
        self.is_warm = True
        return answer

    def _answer(self, work: Callable[[], Any], seconds: float) -> tuple[bool, Any]:
        try:
            self._connection.send(work)
            if self._connection.poll(seconds):
                return self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(1)
            raise WorkError(f"its process ended with exit code {self._process.exitcode}") from error
        raise WorkError(f"stopped after {seconds:.0f} s")

    def close(self) -> None:
        """End the process and what it started."""
        self._connection.close()
        if self._process.is_alive() and self._process.pid is not None:
            if hasattr(os, "killpg"):
                with contextlib.suppress(ProcessLookupError):  # it leads no group yet
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.join()


def _serve(connection: Connection, environment: Mapping[str, str]) -> None:
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    os.environ.update(environment)
    while True:
        try:
            work = connection.recv()
        except EOFError:
            return
        try:
            answer = True, work()
        except Exception as error:
            traceback.print_exc()
            answer = False, f"{type(error).__name__}: {str(error).strip() or 'no message'}"
        connection.send(answer)
