"""The shell completion of `axlstm`: names of commands, options and weights, without PyTorch.

`axlstm --tyro-print-completion bash` prints a script. It answers from the tables below, because
asking the commands themselves for their options would load PyTorch each time; a test compares
the tables with the commands.
"""

from __future__ import annotations

from collections.abc import Iterable

from hear_axlstm.config import PRESETS

SHELLS = ("bash", "zsh")
TAG = "audioset"

TRAINING = """--batch-size --weight-decay --epochs --lr --seed --device --precision --threads
    --log-every --checkpoint-every --checkpoint-minutes --keep-checkpoints --stop-after-bad-steps"""
OPTIONS = {
    "embed": """--out --model --random-weights --kind --path-column --precision --batch-seconds
        --device""",
    "info": "--json",
    "weights": "--from",
    "finetune": f"""{TRAINING} --out --mode --model --labels --path-column --multilabel --separator
        --valid --valid-fold --valid-fraction --test --test-fold --skip-broken --metric --patience
        --encoder-lr --dropout --crop-seconds""",
    "predict": "--out --top --path-column --device",
    "export": "--model --random-weights --kind",
    "pack": "--path-column --workers --dry-run",
    "pretrain": f"""{TRAINING} --run --recipe --estimate --resume --model --expansion --patch --flip
        --input-gate --mask-keeps-position --loss-on --init --base-lr --warmup-epochs --schedule
        --cooldown --optimizer --betas --clip-norm --ema --balance --mix --micro-batch
        --checkpoint-blocks --compile --milestone-epochs --look-every --eval-every --probe""",
    "plot": "--out",
    "convert": "--no-flip --layout",
    "push": "--license --scores --system --card --private --dry-run",
}
"""Options of each command, without --help and the negations of flags that are off by default."""

BASH = """_axlstm() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    local command=${{COMP_WORDS[1]}} words=
    if [[ $COMP_CWORD == 1 ]]; then
        words="{commands} --help --version"
    elif [[ $command == weights && $COMP_CWORD == 2 ]]; then
        words="list get path remove"
    elif [[ $before == --model || $before == --init || $before == info ||
            $command == weights && $word != -* ]]; then
        words="{models}"
    elif [[ $word == -* ]]; then
        case $command in
{options}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _axlstm axlstm
"""
ZSH = "autoload -U +X compinit bashcompinit && compinit -u && bashcompinit\n"


def script(shell: str, commands: Iterable[str]) -> str:
    """The completion script for a shell.

    Args:
        shell: "bash" or "zsh".
        commands: names of the commands.

    Raises:
        ValueError: for another shell.
    """
    if shell not in SHELLS:
        raise ValueError(f"no completion for {shell!r}: choose one of {', '.join(SHELLS)}")
    options = "\n".join(
        f'            {name}) words="{" ".join(text.split())} --help" ;;'
        for name, text in OPTIONS.items()
    )
    models = " ".join((*PRESETS, *(f"{name}.{TAG}" for name in PRESETS)))
    bash = BASH.format(commands=" ".join(commands), models=models, options=options)
    return ZSH + bash if shell == "zsh" else bash
