"""Scratch memory that is reused."""

import torch

from hear_axlstm.ops.workspace import Workspace


def test_a_tensor_of_inference_mode_can_be_used_outside_of_it() -> None:
    workspace = Workspace()
    with torch.inference_mode():
        first = workspace.empty("a", 2, 3, like=torch.zeros(1))
    again = workspace.empty("a", 2, 3, like=torch.zeros(1))
    assert again is first and torch.equal(again.zero_(), torch.zeros(2, 3))
