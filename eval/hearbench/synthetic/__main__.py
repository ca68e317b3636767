"""Generate the miniature tasks, or an unlabeled corpus: `python -m hearbench.synthetic --help`."""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

from hearbench.synthetic.writer import write_corpus, write_tasks


def tasks(out: Path) -> None:
    """Generate the ten miniature tasks in HEAR format.

    Args:
        out: folder for the ten task folders.
    """
    print(f"Ten miniature tasks: {write_tasks(out)}. Next: hearbench run --tasks-dir {out}")


def corpus(out: Path, clips: int = 400) -> None:
    """Generate an unlabeled corpus for pretraining.

    Args:
        out: folder for the WAV files.
        clips: number of clips, each of 2 to 10 s.
    """
    print(f"Unlabeled corpus: {write_corpus(out, clips)}. Next: axlstm pretrain {out}")


def main() -> None:
    """Run a command; bad input is one line on stderr."""
    try:
        tyro.extras.subcommand_cli_from_dict({"tasks": tasks, "corpus": corpus})
    except ValueError as error:
        sys.exit(f"hearbench.synthetic: {error}")


if __name__ == "__main__":
    main()
