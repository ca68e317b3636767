"""Requests to stop: Ctrl-C, and the signals that clusters send."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

SIGNALS = tuple(  # Slurm sends the one it is configured to, commonly SIGUSR1
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)


class Interrupted(RuntimeError):
    """Raised after a run was stopped and saved its state; the message says how to resume."""


class StopRequest:
    """Context manager that records stop signals; a second signal has its usual effect.

    Under torchrun the second is recorded too: torchrun forwards a Ctrl-C that each process also
    receives from the terminal, and kills processes that don't stop in time.
    Only the main thread can receive signals; in another thread this does nothing.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._listen_as_before()

    def __bool__(self) -> bool:
        return self.signal is not None

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if not is_under_torchrun():
            self._listen_as_before()

    def _listen_as_before(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()


def is_under_torchrun() -> bool:
    """Whether torchrun started this process and will restart it if it fails."""
    return "TORCHELASTIC_RUN_ID" in os.environ
