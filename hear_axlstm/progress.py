"""Progress of long work: a bar on a terminal, one line per minute in a log file or a pipe."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

SECONDS_A_LINE = 60.0
LINE = "{desc}: {n_fmt}/{total_fmt} {unit}s [{elapsed}<{remaining}{postfix}]"


class Progress(tqdm):
    """A tqdm that writes lines instead of redrawing a bar where stderr is not a terminal.

    Nothing is written if there is no stderr, as in pythonw.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self.writes_lines = not _is_terminal(sys.stderr)
        options["disable"] = sys.stderr is None or options.get("disable", False)
        if self.writes_lines:
            # miniters keeps tqdm's monitor from writing more often; delay leaves out the first line
            options |= {"mininterval": SECONDS_A_LINE, "miniters": 1, "delay": 1e-9}
            options["bar_format"] = options.get("bar_format", LINE).replace("|{bar}|", "")
        super().__init__(*args, dynamic_ncols=not self.writes_lines, **options)

    @staticmethod
    def status_printer(file: TextIO) -> Callable[[str], None]:
        """Return the function that prints the state of a bar."""
        if _is_terminal(file):
            return tqdm.status_printer(file)

        def write(text: str) -> None:
            if text:
                print(text, file=file, flush=hasattr(file, "flush"))

        return write

    def moveto(self, n: int) -> None:
        """Move the cursor to the line of a nested bar; lines are written one below the other."""
        if not self.writes_lines:
            super().moveto(n)

    def close(self) -> None:
        """Write the last line, unless nothing was done or the bar would have vanished."""
        if self.writes_lines and not self.disable:
            if self.leave and self.n > self.initial:
                self.display()
            self.delay = math.inf  # nothing to clear
        super().close()


def _is_terminal(file: object) -> bool:
    """Whether a file is a terminal; loggers that replace stderr may lack `isatty`."""
    isatty = getattr(file, "isatty", None)
    return isatty is not None and isatty()
