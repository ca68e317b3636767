"""The command line `axlstm COMMAND`, with one file per command.

    embed, predict                embeddings, or classes, of audio files
    weights, info, convert, push  weights: get, describe, convert, publish
    pack, pretrain, plot          training without labels
    finetune                      training on labeled clips
    export                        the model for other runtimes
    completion                    the Tab key in a shell

The list of commands, the version and unknown commands are handled without loading PyTorch; a
command's module is imported when it is called.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

from hear_axlstm import __version__

COMMANDS = {
    "embed": "Embed audio files, folders or tars into a file of embeddings.",
    "info": "Show the settings of presets and weights, and facts about this machine.",
    "weights": "List, download and remove weights by name.",
    "finetune": "Train a classifier on labeled clips.",
    "predict": "Classify audio files with a classifier from finetune.",
    "export": "Write the model as an ONNX file or a torch.export program.",
    "pack": "Turn audio into log-mel shards to pretrain on.",
    "pretrain": "Pretrain an encoder on audio without labels.",
    "plot": "Draw the training curves of runs.",
    "convert": "Convert a checkpoint of the reference release to safetensors.",
    "push": "Publish weights on the Hugging Face hub.",
}
"""Names and one-line descriptions, in the order of use; each is function NAME of module NAME."""

OK, FAILED, SOME_FAILED, INTERRUPTED = 0, 2, 3, 130  # exit codes


def main() -> None:
    """Entry point of `axlstm`: user errors print one line and exit with 2."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        sys.exit(OK if arguments else FAILED)
    name = arguments[0]
    if name in ("-V", "--version"):
        python, system = platform.python_version(), platform.platform(terse=True)
        print(f"axlstm {__version__} (Python {python}, torch {version('torch')}, {system})")
    elif name in COMMANDS:
        run(name, arguments)
    elif name == "--completion":
        print_completion(arguments[1] if len(arguments) > 1 else "")
    else:
        fail(unknown("command", name, COMMANDS))


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The error for an unknown name, suggesting the closest one or listing all."""
    names = list(known)
    close = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(names)}"
    return f"unknown {what} {name!r}: {hint}"


def overview() -> str:
    """The text of `axlstm --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: axlstm COMMAND ...",
            "",
            "Audio embeddings from an xLSTM.",
            "",
            *lines,
            "",
            "axlstm COMMAND --help lists the options of a command; axlstm --version prints the",
            "version; axlstm --completion bash|zsh prints a completion script.",
        ]
    )


def print_completion(shell: str) -> None:
    """Print the completion script for a shell."""
    from hear_axlstm.cli.completion import SHELLS, script

    if shell not in SHELLS:
        fail(f"no completion for {shell!r}: choose one of {', '.join(SHELLS)}")
    import tyro

    parsers = {
        name: tyro.extras.get_parser(load(name), config=(tyro.conf.OmitArgPrefixes,))
        for name in COMMANDS
    }
    print(script(shell, parsers), end="")


def load(name: str, arguments: Sequence[str] = ()) -> Callable[..., Any]:
    """Import the function of a command.

    Args:
        name: one of `COMMANDS`.
        arguments: its command line; a command whose defaults depend on it has a function for them.
    """
    module = importlib.import_module(f"hear_axlstm.cli.{name}")
    function = getattr(module, name)
    # tyro would print the line breaks inside an argument's description
    function.__doc__ = (inspect.getdoc(function) or "").replace("\n" + 8 * " ", " ")
    defaults = module.defaults(arguments) if hasattr(module, "defaults") else {}
    return partial(function, **defaults) if defaults else function


def parse(name: str, arguments: Sequence[str], console_outputs: bool = True) -> Any:
    """Call a command with command-line arguments, starting with the command's name."""
    import tyro

    return tyro.cli(
        load(name, arguments[1:]),
        prog=f"axlstm {name}",
        args=arguments[1:],
        config=(tyro.conf.OmitArgPrefixes,),
        console_outputs=console_outputs,
    )


def run(name: str, arguments: Sequence[str]) -> None:
    """Call a command; report user errors as one line and an exit code."""
    from hear_axlstm.training.distributed import OtherRankError, is_first_process
    from hear_axlstm.training.signals import Interrupted, is_under_torchrun

    if hasattr(sys.stdout, "reconfigure"):  # keep results despite names the terminal can't show
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(format="%(levelname)s: %(message)s")
    if is_first_process():
        logging.getLogger("hear_axlstm").setLevel(logging.INFO)
    try:
        parse(name, arguments, is_first_process())
    except Interrupted as stop:
        if is_first_process():
            print(f"axlstm: {stop}", file=sys.stderr)
        # torchrun would restart a process that failed
        sys.exit(OK if is_under_torchrun() else INTERRUPTED)
    except OtherRankError:
        sys.exit(1)  # that rank reports its own error
    except KeyboardInterrupt:
        print("axlstm: interrupted: run the same command again to resume", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except MemoryError as error:
        fail(f"{str(error) or 'out of memory'}: process less audio at once")
    except BrokenPipeError as error:
        if is_stdout_open():
            fail(str(error))
        sys.exit(OK)
    except OSError as error:
        from hear_axlstm.files import explain

        fail(explain(error))
    except (ValueError, RuntimeError, ModuleNotFoundError) as error:
        fail(str(error))


def is_stdout_open() -> bool:
    """Whether standard output still has a reader, unlike a pipe to a `head` that has exited.

    Without one, later output is discarded, so that Python does not complain when it exits.
    """
    try:
        print(flush=True)  # buffered output may already be lost
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def fail(message: str) -> None:
    """Print one line and exit."""
    print(f"axlstm: error: {message}", file=sys.stderr)
    sys.exit(FAILED)
