"""Stable names of tensors in weight files and training checkpoints.

A block's `state_dict` has the names in files, and `load_state_dict` accepts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

FILE_NAMES = {
    "proj_up": "up",
    "proj_down": "down",
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "igate": "input_gate_map",
    "fgate": "forget_gate_map",
}


def file_name(parameter: str) -> str:
    """Return the name used in files for a parameter that `named_parameters` lists."""
    return ".".join(FILE_NAMES.get(part, part) for part in parameter.split("."))


def file_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters of a model with their names in files."""
    return ((file_name(name), parameter) for name, parameter in model.named_parameters())


def use_file_names(block: nn.Module) -> None:
    """Make a block's `state_dict` and `load_state_dict` use the names in files."""
    block.register_state_dict_post_hook(_to_files)
    block.register_load_state_dict_pre_hook(_from_files)


def _to_files(_: nn.Module, state: dict[str, Any], prefix: str, *__: object) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        state[prefix + file_name(name.removeprefix(prefix))] = state.pop(name)


def _from_files(_: nn.Module, state: dict[str, Any], prefix: str, *__: object) -> None:
    for ours, theirs in FILE_NAMES.items():
        old = f"{prefix}{theirs}."
        for name in [name for name in state if name.startswith(old)]:
            state[f"{prefix}{ours}.{name.removeprefix(old)}"] = state.pop(name)
