"""The shell completion of `axlstm`: names of commands, options and weights, or else of files.

`axlstm --completion bash` prints a script that holds all names, so that completing runs no Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hear_axlstm.config import PRESETS

SHELLS = ("bash", "zsh")
TAG = "audioset"  # as in checkpoints/authors, whose import would load torch

BASH = """_axlstm() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    local command=${{COMP_WORDS[1]}} words=
    if [[ $COMP_CWORD == 1 ]]; then
        words="{commands} --help --version"
    elif [[ $word == -* || $command == weights && $COMP_CWORD == 2 ]]; then
        case $command in
{options}
        esac
    elif [[ $before == --model || $before == --init || $command == info || $command == weights ]]
    then
        words="{models}"
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _axlstm axlstm
"""
ZSH = "autoload -U +X compinit bashcompinit && compinit -u && bashcompinit\n"


def script(shell: str, parsers: Mapping[str, Any]) -> str:
    """The completion script for a shell.

    Args:
        shell: one of `SHELLS`.
        parsers: the `argparse.ArgumentParser`, or tyro's copy of it, of each command.
    """
    options = "\n".join(
        f'            {name}) words="{" ".join(_words(parser))}" ;;'
        for name, parser in parsers.items()
    )
    models = " ".join((*PRESETS, *(f"{name}.{TAG}" for name in PRESETS)))
    bash = BASH.format(commands=" ".join(parsers), models=models, options=options)
    return ZSH + bash if shell == "zsh" else bash


def _words(parser: Any) -> list[str]:
    """Subcommands and long options."""
    words = []
    for action in parser._actions:
        words += [word for word in action.option_strings if word.startswith("--")]
        if isinstance(action.choices, dict):
            for name, subparser in action.choices.items():
                words += [name, *_words(subparser)]
    return list(dict.fromkeys(words))
