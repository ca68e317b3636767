"""Linear layers with fixed weights."""

from __future__ import annotations

import torch
from torch import Tensor

from hear_axlstm.ops.library import call
from hear_axlstm.ops.matmul import fixed_weight, linear
from hear_axlstm.ops.workspace import Workspace


class PackedLinear:
    """Linear layer without bias whose weight is packed for `gemm` where that is faster.

    Args:
        weight: ``[out, in]``, float32 or bfloat16; a copy is kept.
        group: columns of a packed group, `library.gemm_columns`; 0 leaves the product to torch.
    """

    def __init__(self, weight: Tensor, group: int) -> None:
        self.shape, self.dtype = weight.shape, weight.dtype
        in_word = 4 // weight.element_size()
        self.is_packed = (
            weight.device.type == "cpu"
            and group > 0
            and weight.shape[0] % group == 0
            and weight.shape[1] % in_word == 0
        )
        if self.is_packed:  # as [groups, steps, group, in_word]
            weight = weight.unflatten(0, (-1, group)).unflatten(2, (-1, in_word)).transpose(1, 2)
            self.weight = weight.contiguous()
        else:
            self.weight = fixed_weight(weight)

    def __call__(self, x: Tensor, workspace: Workspace, name: str) -> Tensor:
        """``[..., in]`` -> ``[..., out]`` in the weight's dtype; may be stored in `workspace`."""
        x = x.to(self.dtype)
        if not self.is_packed:
            return linear(x, self.weight)
        columns, depth = self.shape
        out = workspace.empty(name, *x.shape[:-1], columns, like=x)
        sizes = x.numel() // depth, depth, columns, torch.get_num_threads()
        call("gemm", x.contiguous(), self.weight, *sizes, out)
        return out
