"""The command line, `axlstm COMMAND`: which commands there are, and how every one of them fails."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import tyro

from hear_axlstm.cli.convert import convert
from hear_axlstm.cli.embed import embed
from hear_axlstm.cli.export import export
from hear_axlstm.cli.finetune import finetune
from hear_axlstm.cli.info import info
from hear_axlstm.cli.pack import pack
from hear_axlstm.cli.plot import plot
from hear_axlstm.cli.predict import predict
from hear_axlstm.cli.pretrain import pretrain
from hear_axlstm.cli.push import push
from hear_axlstm.training.distributed import OtherRankError, is_first_process
from hear_axlstm.training.signals import Interrupted, is_under_torchrun

COMMANDS: dict[str, Callable[..., Any]] = {
    "convert": convert,
    "embed": embed,
    "info": info,
    "pack": pack,
    "pretrain": pretrain,
    "plot": plot,
    "push": push,
    "finetune": finetune,
    "predict": predict,
    "export": export,
}


def main() -> None:
    """Entry point of `axlstm`: exits with 2 and one line for anything the user can mend."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    if is_first_process():
        logging.getLogger("hear_axlstm").setLevel(logging.INFO)
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="axlstm",
            description="Audio embeddings from an xLSTM.",
            config=(tyro.conf.OmitArgPrefixes,),
            console_outputs=is_first_process(),
        )
    except Interrupted as stop:
        if is_first_process():
            print(f"axlstm: {stop}", file=sys.stderr)
        sys.exit(0 if is_under_torchrun() else 130)  # torchrun would start a failed one again
    except OtherRankError:
        sys.exit(1)  # the other one explains itself
    except KeyboardInterrupt:
        print("axlstm: interrupted: give the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except MemoryError as error:
        print(f"axlstm: error: {str(error) or 'out of memory'}: take less at once", file=sys.stderr)
        sys.exit(2)
    except (ValueError, RuntimeError, OSError, ModuleNotFoundError) as error:
        print(f"axlstm: error: {error}", file=sys.stderr)
        sys.exit(2)
