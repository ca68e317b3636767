"""Train and score the rows of the AxLSTM paper's tables: `python -m paper COMMAND`."""

from __future__ import annotations

import sys
from collections.abc import Callable

from hearbench.cli.call import call
from paper.cli.ablations import ablations
from paper.cli.rerun import rerun
from paper.cli.tables import tables


def main() -> int:
    """The command line."""
    commands: dict[str, Callable[..., int]] = {
        "ablations": ablations,
        "tables": tables,
        "rerun": rerun,
    }
    return call(commands, "python -m paper", __doc__)


if __name__ == "__main__":
    sys.exit(main())
