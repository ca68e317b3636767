"""Evaluate audio embeddings by the official heareval: `python -m eval COMMAND`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import tyro

from eval.ablations import AblationError
from eval.commands import INTERRUPTED
from eval.commands.ablations import ablations
from eval.commands.fetch_tasks import fetch_tasks
from eval.commands.paper import paper
from eval.commands.report import report
from eval.commands.run import run
from eval.commands.score import score
from eval.commands.tasks import tasks
from eval.descriptions import TaskError
from eval.fetch.download import FetchError
from eval.plan import PlanError
from eval.scores import FrameError
from eval.systems import SystemSpecError
from eval.workers import SweepError

# What a user can mend: one line, no traceback.
ERRORS = (TaskError, SystemSpecError, PlanError, SweepError, AblationError, FetchError, FrameError)

COMMANDS: dict[str, Callable[..., int]] = {
    "run": run,
    "score": score,
    "tasks": tasks,
    "fetch-tasks": fetch_tasks,
    "ablations": ablations,
    "paper": paper,
    "report": report,
}


def main() -> int:
    """The command line."""
    # A scheduler's "stop" is treated like Ctrl-C: finish cleanly, keep what is there.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="python -m eval", description=__doc__
        )
    except (*ERRORS, OSError) as error:  # of OSErrors e.g. a full disk, which names the file
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("Interrupted; what is finished stays.", file=sys.stderr)
        return INTERRUPTED
    return 2


if __name__ == "__main__":
    sys.exit(main())
