"""Train and score the rows of the AxLSTM paper's tables: `python -m paper COMMAND`."""

from __future__ import annotations

import sys

from hearbench.cli.call import call
from paper.commands import ablations, rerun, tables


def main() -> int:
    """The command line."""
    commands = {command.__name__: command for command in (ablations, tables, rerun)}
    return call(commands, "python -m paper", __doc__)


if __name__ == "__main__":
    sys.exit(main())
