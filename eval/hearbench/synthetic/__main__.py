"""Generate the miniature tasks, or an unlabeled corpus: `python -m hearbench.synthetic --help`."""

from __future__ import annotations

import sys
from pathlib import Path

from hearbench.cli.call import call
from hearbench.synthetic.writer import write_corpus, write_tasks


def tasks(out: Path) -> int:
    """Generate the ten miniature tasks in HEAR format.

    Args:
        out: folder for the ten task folders.
    """
    print(f"Ten miniature tasks: {write_tasks(out)}. Next: hearbench run --tasks-dir {out}")
    return 0


def corpus(out: Path, clips: int = 400) -> int:
    """Generate an unlabeled corpus for pretraining.

    Args:
        out: folder for the WAV files.
        clips: number of clips, each of 2 to 10 s.
    """
    print(f"Unlabeled corpus: {write_corpus(out, clips)}. Next: axlstm pretrain {out}")
    return 0


if __name__ == "__main__":
    commands = {command.__name__: command for command in (tasks, corpus)}
    sys.exit(call(commands, "python -m hearbench.synthetic", __doc__))
